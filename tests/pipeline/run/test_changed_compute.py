"""A run that is resumed under a different `compute` trains on as if nothing had changed."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.run.config import TrainConfig
from tests.gloo import RankError, run_ranks
from tests.pipeline.training_run import (
    assert_same_bits,
    final_state,
    make_config,
    make_rows,
    metrics,
    pretrain,
)

SCHEDULE = {"type": "linear", "warmup_rows": 64, "total_rows": 320}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder)
    return folder


@pytest.fixture(scope="module")
def whole(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run of 20 steps with the defaults, without interruption."""
    config = make_config(rows, tmp_path_factory.mktemp("whole") / "run", schedule=SCHEDULE)
    run_ranks(pretrain, 1, config)
    return config


def resumed_with(rows: Path, output: Path, world_size: int, **changes: Any) -> TrainConfig:
    """Half of the steps with the defaults, the other half with `changes`."""
    half = make_config(rows, output, schedule=SCHEDULE, total_rows=160)
    run_ranks(pretrain, 1, half)
    config = make_config(rows, output, schedule=SCHEDULE, **changes)
    run_ranks(pretrain, world_size, config)
    return config


@pytest.mark.parametrize("recomputed", ["layers", "selective"])
def test_activation_checkpointing_changes_no_bit(
    rows: Path, whole: TrainConfig, tmp_path: Path, recomputed: str
) -> None:
    changes = {"activation_checkpointing": {"type": recomputed}}
    config = resumed_with(rows, tmp_path / "run", 1, compute=changes)
    assert_same_bits(final_state(whole), final_state(config))
    assert metrics(config, "loss") == metrics(whole, "loss")


@pytest.mark.parametrize(
    ("ranks", "parallel", "by_tokens"),
    [
        (2, {"zero_stage": 1}, False),
        (2, {"zero_stage": 2}, False),
        (2, {"zero_stage": 3}, False),
        (4, {"zero_stage": 3, "tensor": 2}, True),
    ],
    ids=str,
)
def test_selective_recomputation_has_the_same_bits_on_every_grid(
    rows: Path, tmp_path: Path, ranks: int, parallel: dict[str, Any], by_tokens: bool
) -> None:
    found = []
    for recomputed in ("none", "selective"):
        again = {"activation_checkpointing": {"type": recomputed}}
        config = make_config(
            *(rows, tmp_path / recomputed),
            precision="bf16",
            schedule={"type": "constant"},
            total_rows=80,
            parallel=parallel,
            compute={"sequence_parallel": by_tokens, **again},
        )
        run_ranks(pretrain, ranks, config)
        found.append((final_state(config), metrics(config, "loss")))
    assert_same_bits(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize(
    ("compute", "tensor"),
    [({"vocabulary_multiple": 8}, 1), ({"sequence_parallel": True}, 2)],
    ids=["vocabulary_multiple", "sequence_parallel"],
)
def test_other_changes_are_equal_up_to_rounding(
    rows: Path, whole: TrainConfig, tmp_path: Path, compute: dict[str, Any], tensor: int
) -> None:
    config = resumed_with(
        rows, tmp_path / "run", tensor, compute=compute, parallel={"tensor": tensor}
    )
    assert metrics(config, "loss") == pytest.approx(metrics(whole, "loss"), abs=1e-5)
    assert metrics(config, "gradient_norm") == pytest.approx(
        metrics(whole, "gradient_norm"), rel=1e-4
    )


def test_compute_reaches_the_layers(rows: Path, tmp_path: Path) -> None:
    """FlexAttention cannot train on the CPU: a run that takes it from `compute` must fail."""
    sizes = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "max_row_tokens": 32}
    config = make_config(
        rows,
        tmp_path / "run",
        model={**sizes, "attention_dropout": 0.0},
        compute={"attention_backend": "flex"},
    )
    with pytest.raises(RankError, match="flex has no backward pass on the CPU"):
        run_ranks(pretrain, 1, config)
