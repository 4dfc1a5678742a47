"""Which gathers of new weights are waited for, when and by whom."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from model.config import MLM_HEAD
from model.layer import Layer
from model.parallel.grid import Grid, make_grid
from pipeline.engine.deepspeed_engine import Engine
from pipeline.engine.weight_gathers import WeightGathers, start_gather
from pipeline.pretraining.step import pretraining_step, split_into_micro_batches
from pipeline.run.config import TrainConfig
from tests.gloo import in_one_rank, run_ranks
from tests.pipeline.engine.late_weights import gathers, start_at_once, start_late
from tests.pipeline.engine.recorded_graphs import RecordedGraphs
from tests.pipeline.engine.test_flat_gradients import batch_of, config_of, engine_of, grid_of

BUCKET_VALUES = 300_000


def after_a_step(config: TrainConfig, grid: Grid | None = None) -> Engine:
    """With weights on their way."""
    engine = engine_of(config, grid or grid_of(config))
    pretraining_step(engine, batch_of(config, engine.grid, 0), 1e-3)
    return engine


def num_missing(engine: Engine) -> int:
    """Parameters that are not there."""
    return sum(bool(p.isnan().any()) for p in engine._module.parameters())


READERS: dict[str, Callable[[Engine], Any]] = {
    "the model": lambda engine: engine.module,
    "a forward pass outside a step": lambda engine: engine.model,
    "a check of replicas": lambda engine: engine.check_replicas(),
    "a save": lambda engine: engine.snapshot(),
    "a backward pass": lambda engine: engine.backward(torch.zeros(1, requires_grad=True).sum()),
    "the end": lambda engine: engine.close(),
}


@in_one_rank
@pytest.mark.parametrize("name", READERS)
def test_the_engine_gives_weights_only_when_all_are_there(name: str) -> None:
    config = config_of()
    with gathers(start_late):
        engine = after_a_step(config)
        assert num_missing(engine) == len(list(engine._module.parameters()))
        if name == "a backward pass":
            engine.start_micro_batch(is_last=False)
        READERS[name](engine)
        assert num_missing(engine) == 0


@in_one_rank
def test_graphs_start_when_all_weights_are_there() -> None:
    with gathers(start_late):
        engine = after_a_step(config_of())
        engine.use_graphs(RecordedGraphs())
        engine.start_step(1e-3)
        assert num_missing(engine) == 0


@contextmanager
def noted_waits(left: list[tuple[str, int]]) -> Iterator[None]:
    """Adds (kind of the first of the parts, gathers that are on their way when they run)."""
    ready = WeightGathers.ready

    def noted(weights: WeightGathers, *parts: nn.Module) -> None:
        ready(weights, *parts)
        left.append((type(parts[0]).__name__, len(weights._started)))

    with mock.patch.object(WeightGathers, "ready", noted):
        yield


def waits_of_a_step(config: TrainConfig) -> tuple[int, list[tuple[str, int]]]:
    """(number of gathers, what `noted_waits` finds in the step after an update)."""
    with gathers(start_gather, BUCKET_VALUES // config.parallel.tensor):
        engine = after_a_step(config)
        left: list[tuple[str, int]] = []
        with noted_waits(left):
            pretraining_step(engine, batch_of(config, engine.grid, 1), 1e-3)
        number = len(engine._weights._gathers)  # type: ignore[attr-defined]
        engine.close()
    return number, left


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_forward_pass_waits_before_each_part_for_its_own_weights(ranks: int) -> None:
    """In the order in which they were started; the second micro-batch waits for nothing."""
    for number, left in run_ranks(waits_of_a_step, ranks, config_of(tp_size=ranks // 2)):
        first, second = left[: len(left) // 2], left[len(left) // 2 :]
        assert number > 3
        kinds = ["Embeddings", "Layer", "Layer", "LanguageModelHead", "MaskedLanguageModel"]
        assert [kind for kind, _ in first] == [kind for kind, _ in second] == kinds
        counts = [count for _, count in first]
        assert number > counts[0] > counts[1] > counts[2] >= counts[3] == 0
        assert {count for _, count in second} == {0}


@in_one_rank
def test_a_read_without_a_wait_is_seen() -> None:
    """What the tests of whole runs with late weights rest on."""
    config, grid, ready = config_of(), make_grid(1), WeightGathers.ready

    def forgets_layers(weights: WeightGathers, *parts: nn.Module) -> None:
        ready(weights, *(part for part in parts if not isinstance(part, Layer)))

    for start, expected in ((start_at_once, True), (start_late, False)):
        with gathers(start), mock.patch.object(WeightGathers, "ready", forgets_layers):
            engine = after_a_step(config, grid)
            micro_batch = split_into_micro_batches(batch_of(config, grid, 1), config.model)[0]
            (loss, _, _) = micro_batch.forward(engine.model_in_step, grid.device)[MLM_HEAD]
        assert math.isfinite(float(loss)) == expected


def started_parameters(config: TrainConfig) -> list[int]:
    """Numbers in the model of the parameters, in the order in which their gathers start."""
    started: list[int] = []

    def noted(buckets: Sequence[Any], group: Any) -> Any:
        started.extend(id(p) for bucket in buckets for p in bucket.parameters)
        return start_at_once(buckets, group)

    with gathers(noted):
        engine = engine_of(config, make_grid(1))
        started.clear()  # what DeepSpeed gathers at its start
        pretraining_step(engine, batch_of(config, engine.grid, 0), 1e-3)
    place = {id(p): number for number, p in enumerate(engine.module.parameters())}
    return [place[one] for one in started]


def test_gathers_start_in_the_order_of_the_forward_pass() -> None:
    for order in run_ranks(started_parameters, 2, config_of()):
        assert order == sorted(order)
        assert len(order) == len(set(order)) > 20
