"""`parallel.reduce_gradients: step`: ZeRO 3 adds up micro-batches in fp32, and reduces once."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.run.config import ParallelConfig, TrainConfig
from tests.gloo import run_ranks
from tests.pipeline.gpu.gpu_runs import forget_after
from tests.pipeline.training_run import (
    SMALL_MODEL,
    assert_same_bits,
    final_state,
    make_config,
    make_rows,
    metrics,
    pretrain,
)

STEPS, ACCUMULATION, RANKS = 4, 4, 2


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder)
    return folder


def config_of(rows: Path, output: Path, precision: str = "bf16", **parallel: Any) -> TrainConfig:
    return make_config(
        *(rows, output),
        precision=precision,
        batch={"global_rows": 16, "micro_rows": 16 // RANKS // ACCUMULATION},
        model={**SMALL_MODEL, "tied_decoder": precision == "fp32"},
        total_rows=16 * STEPS,
        schedule={"type": "constant"},
        gradient_clipping=0,
        parallel={"zero_stage": 3, "reduce_gradients": "step", **parallel},
        checkpoint={"every_steps": 2},
        evaluation={"every_steps": 2, "rows_per_source": 2},
    )


class Scattered(TorchDispatchMode):
    """Counts reductions of gradients, and the values that a rank sends in them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls, self.values = 0, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.c10d._reduce_scatter_base_.default:
            assert args[1].dtype == torch.float32
            self.calls += 1
            self.values += args[1].numel()
        return func(*args, **(kwargs or {}))


def scattered(config: TrainConfig) -> tuple[int, int]:
    counter = Scattered()
    with counter:
        pretrain(config)
    return counter.calls, counter.values


def test_gradients_are_sent_once_a_step(rows: Path, tmp_path: Path) -> None:
    once = config_of(rows, tmp_path / "once")
    often = config_of(rows, tmp_path / "often", reduce_gradients="auto")
    ((calls, values), _), ((more_calls, more_values), _) = (
        run_ranks(scattered, 2, config) for config in (once, often)
    )
    assert calls >= STEPS
    assert (more_calls, more_values) == (ACCUMULATION * calls, ACCUMULATION * values)


@pytest.mark.parametrize(
    ("precision", "ranks", "layout"),
    [
        ("bf16", 2, {}),
        ("fp32", 2, {}),
        ("fp16", 2, {}),
        ("bf16", 1, {}),
        ("bf16", 4, {"tensor": 2}),
        ("bf16", 2, {"offload_optimizer": True}),
        ("bf16", 4, {"tensor": 2, "zero_gather_ranks": 2}),
    ],
    ids=str,
)
def test_the_bits_are_those_of_zero_1(
    rows: Path, tmp_path: Path, precision: str, ranks: int, layout: dict[str, Any]
) -> None:
    """Which adds in the same order where two ranks are added and nothing is clipped. In 16 bits a
    tied decoder would differ: the two gradients of a pass are added in fp32 here."""
    once = config_of(rows, tmp_path / "once", precision, **layout)
    layout |= {"zero_stage": 1, "reduce_gradients": "auto", "zero_gather_ranks": None}
    first = config_of(rows, tmp_path / "first", precision, **layout)
    run_ranks(pretrain, ranks, once)
    run_ranks(pretrain, ranks, first)
    assert_same_bits(final_state(once), final_state(first))
    assert metrics(once, "loss") == metrics(first, "loss")


def test_resumed_is_bit_equal(rows: Path, tmp_path: Path) -> None:
    whole = config_of(rows, tmp_path / "whole")
    run_ranks(pretrain, 2, whole)
    resumed = forget_after(whole, tmp_path / "resumed", step=2)
    run_ranks(pretrain, 2, resumed)
    assert_same_bits(final_state(whole), final_state(resumed))
    assert metrics(whole, "loss") == metrics(resumed, "loss")


def test_zero_2_is_refused_and_says_why() -> None:
    with pytest.raises(ValueError, match=r"zero_stage 2 would keep whole .* is zero_stage 1"):
        ParallelConfig(zero_stage=2, reduce_gradients="step")
    assert ParallelConfig(reduce_gradients="step").zero_stage == 1  # which does so anyway
