"""What exports do besides their options: memory of the comparison, cards of phases, refusals."""

import inspect
import sys
from pathlib import Path
from unittest import mock

import pytest
import yaml

from configs.load import UserError
from model.config import ModelConfig
from pipeline import export
from pipeline.finetuning import export as finetuning_export
from pipeline.hugging_face.outputs import compute_of_comparison
from pipeline.pretraining import discriminator_export
from pipeline.pretraining import export as pretraining_export
from pipeline.pretraining.card import objectives_so_far
from tests.pipeline.training_run import make_config


def test_long_rows_are_compared_in_little_memory() -> None:
    """Explicit attention scores of 8,192 tokens take 3 GiB a layer of 12 heads."""
    sizes = {"num_layers": 1, "hidden_size": 8, "num_attention_heads": 1}
    backends = [
        compute_of_comparison(ModelConfig(**sizes, max_row_tokens=longest)).attention_backend
        for longest in (512, 8192)
    ]
    assert backends == ["auto", "sdpa"]
    for module in (pretraining_export, discriminator_export, finetuning_export):
        assert "compute_of_comparison(" in inspect.getsource(module), module


def test_the_card_names_the_objectives_so_far(tmp_path: Path) -> None:
    later = {"total_rows": 32, "schedule": {"warmup_rows": 0}}
    phases = [
        {**later, "objective": {"type": "causal"}},
        {**later, "objective": {"type": "mlm", "mask_rate": 0.2}},
        {**later, "objective": {"mask_rate": 0.1}},
    ]
    config = make_config(tmp_path, tmp_path, total_rows=64, then=phases)
    masked = "mlm (masked language modelling)"
    found = {rows: objectives_so_far(config, rows) for rows in (0, 64, 65, 96, 97, 160)}
    assert found == {
        **dict.fromkeys((0, 64), masked),
        **dict.fromkeys((65, 96), f"{masked}, then causal"),
        **dict.fromkeys((97, 160), f"{masked}, then causal, then {masked}"),
    }


def test_a_discriminator_is_not_registered(tmp_path: Path) -> None:
    config = make_config(tmp_path, tmp_path / "run", objective={"type": "replaced_tokens"})
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    argv = ["export", str(tmp_path / "run.yaml"), "--register"]
    with mock.patch.object(sys, "argv", argv), pytest.raises(UserError, match="leave --register"):
        export.main()
