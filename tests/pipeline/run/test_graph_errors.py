"""What does not go with `compute.cuda_graphs`: an error before the training, by its key."""

from pathlib import Path
from typing import Any

import pytest

from configs.load import ConfigError
from pipeline.run.config import TrainConfig
from tests.pipeline.finetuning.finetune_run import make_finetune_config
from tests.pipeline.training_run import SMALL_MODEL, make_config

NEEDS = "needs parallel.zero_stage 1 and no parallel.offload_optimizer"
SPANS = {"visibility": {"type": "random_span", "max_share": 0.3}}


def config_of(cuda_graphs: Any = "on", **changes: Any) -> TrainConfig:
    compute = {"cuda_graphs": cuda_graphs, **changes.pop("compute", {})}
    settings = {"precision": "bf16", **changes, "compute": compute}
    return make_config(Path("rows"), Path("run"), **settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parallel": {"zero_stage": 2}}, NEEDS),
        ({"parallel": {"offload_optimizer": True}}, NEEDS),
        ({"parallel": {"tensor": 2}}, "does not go with parallel.tensor 2"),
        ({"adversarial": {"type": "alum"}}, "does not go with adversarial alum"),
        (
            {"objective": {"type": "replaced_tokens"}},
            "does not go with objective replaced_tokens",
        ),
        ({"model": {**SMALL_MODEL, **SPANS}}, "does not go with model.visibility random_span"),
        (
            {"compute": {"activation_checkpointing": {"type": "layers"}}},
            "does not go with compute.activation_checkpointing layers",
        ),
        (
            {"compute": {"activation_checkpointing": {"type": "selective"}}},
            "does not go with compute.activation_checkpointing selective",
        ),
        (
            {"then": [{"total_rows": 32, "adversarial": {"type": "alum"}}]},
            "does not go with then.0.adversarial alum",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_captured_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(**changes)
    assert f"compute.cuda_graphs on {message}" in str(caught.value)
    for word in ("auto", "off"):
        assert config_of(word, **changes).compute.cuda_graphs == word


def test_what_can_be_captured_is_not_refused() -> None:
    again = {"activation_checkpointing": {"type": "layers"}, "attention_backend": "explicit"}
    assert config_of(compute=again).compute.cuda_graphs == "on"
    assert config_of(objective={"type": "causal"}).compute.cuda_graphs == "on"
    assert config_of(True).compute.cuda_graphs == "on"  # the bare word of YAML


def test_fine_tuning_refuses_graphs(tmp_path: Path) -> None:
    pretrained = make_config(tmp_path / "rows", tmp_path / "run")
    with pytest.raises(ConfigError, match=r"compute\.cuda_graphs on does not go with fine-tuning"):
        make_finetune_config(pretrained, tmp_path / "tuned", compute={"cuda_graphs": "on"})
