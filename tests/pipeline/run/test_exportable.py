"""A model that cannot be exported is refused before the training."""

from pathlib import Path

import pytest

from configs.load import ConfigError
from pipeline.run.plan import plan_run
from tests.pipeline.plan_lines import report
from tests.pipeline.training_run import make_config, make_rows

SWIGLU = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "max_row_tokens": 32,
    "activation": {"type": "swiglu"},
}


def test_the_settings_that_make_it_exportable_are_named(tmp_path: Path) -> None:
    """By train.py, which plans a run at its start, and by the planner."""
    make_rows(tmp_path / "rows")
    wanted = make_config(tmp_path / "rows", tmp_path, model=SWIGLU, export="hugging_face")
    for plan in (lambda: plan_run(wanted, 1), lambda: list(report(wanted, 1, 1))):
        with pytest.raises(ConfigError) as error:
            plan()
        assert "  roberta: model.activation.type: gelu (now swiglu)\n" in str(error.value)
        assert "or set export: none" in str(error.value)
    plan_run(make_config(tmp_path / "rows", tmp_path, model=SWIGLU, export="none"), 1)
    plan_run(make_config(tmp_path / "rows", tmp_path, export="hugging_face"), 1)
