"""What an optimizer step costs in communication and in waiting, and what it computes of counts."""

import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator

from model.parallel.grid import make_grid
from pipeline.engine.step import _loss_scales, _means, count_labels
from pipeline.finetuning import loop as finetuning_loop
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.step import finetuning_step
from pipeline.pretraining import loop as pretraining_loop
from pipeline.pretraining.step import pretraining_step
from pipeline.run.config import TrainConfig
from tests.gloo import in_one_rank, run_ranks
from tests.pipeline.finetuning.finetune_run import (
    make_finetune_config,
    make_pretrained,
    run_finetuning,
)
from tests.pipeline.training_run import make_config, make_rows, pretrain

PIPELINE = str(Path(__file__).parents[3] / "pipeline")

COLLECTIVES = (
    *("all_reduce", "all_gather", "all_gather_single", "all_gather_into_tensor"),
    *("all_gather_object", "barrier"),
    *("broadcast", "broadcast_object_list", "reduce", "reduce_scatter", "reduce_scatter_single"),
    *("reduce_scatter_tensor", "gather", "all_to_all"),
)
TRANSFERS = ("item", "tolist", "cpu", "__float__", "__int__", "__bool__", "__index__")
"""Methods of a tensor by which the host waits for the device."""


class CallCounter:
    """Counts the calls that files in pipeline/ make themselves, by name and between two steps."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.by_step: list[dict[str, int]] = []
        for name in COLLECTIVES:
            if hasattr(dist, name):
                setattr(dist, name, self._counted(name, getattr(dist, name)))
        for name in TRANSFERS:
            setattr(torch.Tensor, name, self._counted(name, getattr(torch.Tensor, name)))

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if sys._getframe(1).f_code.co_filename.startswith(PIPELINE):
                self.counts[name] += 1
            return function(*arguments, **named)

        return call

    def around(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """`step`, before which the calls since the step before are noted."""

        def call(*arguments: Any) -> Any:
            self.by_step.append(dict(self.counts))
            self.counts.clear()
            return step(*arguments)

        return call


def counted_pretraining(config: TrainConfig) -> list[dict[str, int]]:
    counter = CallCounter()
    with mock.patch.object(pretraining_loop, "pretraining_step", counter.around(pretraining_step)):
        pretrain(config)
    return counter.by_step[1:]  # the first follows the start of the run


def counted_finetuning(config: FinetuneConfig) -> list[dict[str, int]]:
    counter = CallCounter()
    with mock.patch.object(finetuning_loop, "finetuning_step", counter.around(finetuning_step)):
        run_finetuning(config)
    return counter.by_step[1:]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_pretraining_step_takes_two_collectives_and_one_transfer(
    tmp_path: Path, precision: str
) -> None:
    """Besides those of DeepSpeed, or at ZeRO 1 of what takes its place: the reduction of
    two groups, and their new weights. For the norm it neither communicates nor waits."""
    make_rows(tmp_path / "rows", rows=64)
    config = make_config(
        tmp_path / "rows",
        tmp_path / "run",
        total_rows=6 * 16,
        precision=precision,
        log_every_steps=2,
    )
    expected = {"all_reduce": 1 + 2, "all_gather_single": 1 + 2, "cpu": 1}
    for steps in run_ranks(counted_pretraining, 2, config):
        assert steps == [expected] * 5


def test_a_finetuning_step_takes_one_collective_and_one_transfer(tmp_path: Path) -> None:
    config = make_finetune_config(
        make_pretrained(tmp_path / "pretrained"), tmp_path / "run", evaluate_every_steps=6
    )
    expected = {"all_reduce": 2, "all_gather_single": 1 + 2, "cpu": 1}  # as above, of two groups
    for steps in run_ranks(counted_finetuning, 2, config):
        assert steps == [expected] * 5


def waits_of_deepspeed(config: TrainConfig) -> int:
    """How often DeepSpeed has the host wait for all work of the device, in a run."""
    waits = 0

    def counted(*_: Any) -> None:
        nonlocal waits
        waits += 1

    with mock.patch.object(type(get_accelerator()), "synchronize", counted):
        pretrain(config)
    return waits


def test_deepspeed_waits_for_nothing_between_micro_batches(tmp_path: Path) -> None:
    """At ZeRO 1; its other optimizers wait by themselves, for their buckets."""
    make_rows(tmp_path / "rows", rows=64)
    settings: dict[str, Any] = {"precision": "bf16", "schedule": {"type": "constant"}}
    config = make_config(tmp_path / "rows", tmp_path / "run", total_rows=4 * 16, **settings)
    assert run_ranks(waits_of_deepspeed, 1, config) == [0]


def formats_of_reductions(config: TrainConfig) -> set[torch.dtype]:
    """Number formats of the tensors that are summed over ranks in a run, short vectors left out."""
    found: set[torch.dtype] = set()

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            tensors = [x for x in (*arguments, *named.values()) if isinstance(x, torch.Tensor)]
            found.update(tensor.dtype for tensor in tensors if tensor.numel() > 100)
            return function(*arguments, **named)

        return call

    names = ("reduce_scatter_single", "reduce_scatter_tensor", "_reduce_scatter_base")
    for name in ("all_reduce", "reduce", *filter(partial(hasattr, dist), names)):
        setattr(dist, name, noted(getattr(dist, name)))
    pretrain(config)
    return found


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_gradients_are_summed_over_ranks_in_fp32(tmp_path: Path, zero_stage: int) -> None:
    make_rows(tmp_path / "rows", rows=64)
    config = make_config(
        tmp_path / "rows",
        tmp_path / "run",
        total_rows=2 * 16,
        schedule={"type": "constant"},
        precision="bf16",
        parallel={"zero_stage": zero_stage},
    )
    assert run_ranks(formats_of_reductions, 2, config) == [{torch.float32}] * 2


def test_the_counter_sees_more_calls_than_allowed() -> None:
    def transfers() -> dict[str, int]:
        counter = CallCounter()
        code = compile("float(x) + x.item() + int(x)", f"{PIPELINE}/engine/made_up.py", "eval")
        eval(code, {"x": torch.ones(())})
        return dict(counter.counts)

    assert run_ranks(transfers, 1) == [{"__float__": 1, "item": 1, "__int__": 1}]


def counts_at(tp_size: int) -> list[float]:
    grid = make_grid(tp_size)
    labels = torch.full((2, 3), -100)
    labels[0, : grid.dp_rank + 1] = 7
    return [float(value) for value in count_labels(grid, labels >= 0)]


@pytest.mark.parametrize(("tp_size", "expected"), [(1, 1 + 2 + 3 + 3), (2, 1 + 2)])
def test_labels_are_counted_once_for_each_data_parallel_rank(tp_size: int, expected: int) -> None:
    assert run_ranks(counts_at, 4, tp_size) == [[expected]] * 4


@in_one_rank
def test_heads_without_labels_have_no_weight() -> None:
    grid = make_grid(1)
    counts = torch.tensor([4.0, 0.0], dtype=torch.float64)
    assert _loss_scales(grid, counts, [2.0, 3.0]).tolist() == [0.5, 0.0]
    table = np.array([[4.0, 0.0]])
    assert _means(grid, ["a", "b"], np.array([[6.0, 0.0]]), table) == {"a": 1.5}
