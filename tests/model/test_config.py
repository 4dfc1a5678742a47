"""Bad sizes and disagreeing options are named before any weight is allocated."""

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from configs.load import ConfigError
from model.compute import ComputeConfig
from model.config import ModelConfig, architecture_differences
from model.grid_check import check_grid

SIZES = {"num_layers": 4, "hidden_size": 64, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_attention_heads": 5}, "hidden sizes that are: 60 and 65"),
        (
            {"attention_pattern": {"type": "window", "neighbours": 512}},
            "neighbours 512 reaches beyond a row of max_row_tokens 512: use at most 511",
        ),
        (
            {"positions": {"type": "rotary"}, "num_attention_heads": 64},
            "rotary positions need an even head size, not 1",
        ),
        ({"parameter_sharing": {"type": "groups", "num_groups": 5}}, "is more than num_layers 4"),
        (
            {"parameter_sharing": {"type": "groups", "pooler": True}},
            "parameter_sharing.pooler needs a pooler",
        ),
        ({"frozen": {"type": "lower", "num_layers": 5}}, "frozen.num_layers 5 is more than"),
        (
            {"parameter_sharing": {"type": "groups"}, "frozen": {"type": "all_but_last"}},
            "cannot be frozen one by one",
        ),
        ({"hidden_sise": 3}, "hidden_sise"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        ModelConfig(**{**SIZES, **settings})
    assert message in str(error.value)


def test_sizes_that_tensor_parallelism_does_not_divide_are_all_named() -> None:
    config, compute = ModelConfig(**SIZES, ffn_hidden_size=200), ComputeConfig()
    check_grid(config, compute, 4)
    with pytest.raises(ConfigError) as error:
        check_grid(config, compute, 3)
    lines = str(error.value).splitlines()
    assert [line.split()[0] for line in lines] == [
        "model.num_attention_heads",
        "model.ffn_hidden_size",
        "compute.vocabulary_multiple",
    ]
    assert "nearest values that are: 3 and 6" in lines[0]
    assert "tensor-parallel sizes that divide 4: 1, 2, 4" in lines[0]


def test_a_backend_without_dropout_is_refused_where_there_is_dropout() -> None:
    flex = ComputeConfig(attention_backend="flex")
    with pytest.raises(ConfigError, match="flex has no dropout"):
        check_grid(ModelConfig(**SIZES), flex, 1)
    check_grid(ModelConfig(**SIZES, attention_dropout=0.0), flex, 1)


def test_training_choices_are_no_difference_of_architecture() -> None:
    plain = ModelConfig(**SIZES)
    chosen = {"hidden_dropout": 0.0, "pooler": {"type": "mean"}, "packed_rows": {"type": "inside"}}
    assert architecture_differences(plain, ModelConfig(**SIZES, **chosen)) == []
    changed = ModelConfig(**SIZES, positions={"type": "learned", "offset": 0}, hidden_dropout=0.0)
    [found] = architecture_differences(plain, changed)
    assert str(found) == "positions.offset: 2 before, 0 now"


def test_keys_that_moved_are_left_out_of_stored_configs() -> None:
    config = ModelConfig(**SIZES)
    stored = config.model_dump(mode="json")
    old = {"attention_backend": "sdpa", "sequence_parallel": False, "vocabulary_multiple": 64}
    assert ModelConfig.from_stored({**stored, **old}) == config
    with pytest.raises(ValidationError, match="attention_backends"):
        ModelConfig.from_stored({**stored, "attention_backends": "sdpa"})


def test_the_inner_width_defaults_to_four_times_the_hidden_size() -> None:
    assert ModelConfig(**SIZES).ffn_hidden_size == 256
    assert ModelConfig(**SIZES, ffn_hidden_size=100).ffn_hidden_size == 100


def test_the_config_is_read_without_torch() -> None:
    code = "import sys, model.config, model.objectives.mlm; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
