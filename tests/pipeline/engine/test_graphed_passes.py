"""Micro-batches as graphs: the bits of eager over steps, and nothing that the host changes in them.

`RecordedGraphs` stands for CUDA's. Streams, memory pools and the kernels themselves are for
tests/pipeline/gpu.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from configs.load import ConfigError
from model.config import MLM_HEAD
from model.heads import build_masked_lm
from model.parallel.grid import Grid, make_grid
from model.transfer import to_device
from pipeline.data.loader import StepBatch
from pipeline.engine.cuda_graphs import CudaGraphs
from pipeline.engine.deepspeed_engine import Engine
from pipeline.engine.graphed_passes import GraphedPasses
from pipeline.pretraining.step import MaskedMicroBatch, pretraining_step
from pipeline.run.config import TrainConfig
from pipeline.selfcheck import random_batch
from tests.gloo import in_one_rank
from tests.pipeline.engine.recorded_graphs import RecordedGraphs, Recorder, as_on_a_gpu
from tests.pipeline.training_run import SMALL_MODEL, assert_same_bits, make_config

VOCAB_SIZE = 250
NUM_STEPS = 6
PAD = 1
MODERN = {
    "positions": {"type": "rotary"},
    "norm_placement": {"type": "pre"},
    "activation": {"type": "geglu"},
    "attention_pattern": {"type": "alternating", "neighbours": 8, "global_every": 3},
    "packed_rows": {"type": "inside"},
}
WARM_UPS = "pipeline.engine.graphed_passes.WARM_UPS"


@dataclass(frozen=True)
class Case:
    """How the micro-batches of a test are computed."""

    accumulation: int = 3
    model: dict[str, Any] = field(default_factory=dict)
    compute: dict[str, Any] = field(default_factory=dict)
    optimizer: str = "adamw"
    precision: str = "bf16"
    is_causal: bool = False
    draws: bool = False

    @property
    def config(self) -> TrainConfig:
        return make_config(
            *(Path("rows"), Path("run")),
            model={**SMALL_MODEL, **self.model},
            precision=self.precision,
            gradient_clipping=0.5,
            optimizer={"type": self.optimizer},
            compute={"compile": "on", **self.compute},
        )


AGAIN = {"activation_checkpointing": {"type": "layers"}, "attention_backend": "explicit"}
CASES = {
    "one micro-batch": Case(accumulation=1),
    "three micro-batches": Case(),
    "modern": Case(model=MODERN),
    "layers computed again": Case(compute=AGAIN),
    "torch's generator": Case(compute={"attention_backend": "sdpa"}, draws=True),
    "lamb": Case(optimizer="lamb"),
    "causal": Case(is_causal=True),
    "fp32": Case(precision="fp32"),
    "fp16, whose loss scale changes": Case(precision="fp16"),
}


def batch_of(case: Case, step: int) -> StepBatch:
    """Different micro-batches, from the fourth step on with padding: another form."""
    batch = random_batch(case.config, VOCAB_SIZE, step)
    rows = (batch.tokens, batch.positions, batch.labels)
    tokens, positions, labels = (torch.cat([x, x])[: case.accumulation].clone() for x in rows)
    tokens[:, :, 5] = torch.arange(case.accumulation)[:, None] + 7
    if step > 2:
        tokens[:, :, -3:] = PAD
    keys = tuple(1000 * step + number for number in range(case.accumulation))
    return replace(
        batch,
        tokens=tokens,
        positions=positions,
        labels=labels,
        dropout_keys=keys,
        is_causal=case.is_causal,
    )


def engine_of(case: Case, grid: Grid, graphs: RecordedGraphs | None) -> Engine:
    config = case.config
    model = build_masked_lm(config.model, VOCAB_SIZE, grid, config.seed, config.compute)
    engine = Engine(model, config, case.accumulation, grid, [config.optimizer])
    engine._zero.clip_grad = config.gradient_clipping
    if graphs is not None:
        engine.use_graphs(graphs)
    return engine


def heldout(engine: Engine, batch: StepBatch) -> list[float]:
    engine.start_evaluation()
    micro_batch = MaskedMicroBatch(batch.tokens[0], batch.positions[0], batch.labels[0])
    with torch.no_grad():
        results = micro_batch.forward(engine.model, engine.grid.device)
    return [float(value) for value in results[MLM_HEAD]]


def trained(
    case: Case, grid: Grid, graphs: RecordedGraphs | None
) -> tuple[list[Any], dict[str, Tensor]]:
    """(numbers and sums of gradients of each step, the state after the last)."""
    found: list[Any] = []
    with as_on_a_gpu(), mock.patch("model.heads.SLOTS_AT_ONCE", 8), mock.patch(WARM_UPS, 1):
        engine = engine_of(case, grid, graphs)
        zero = engine._zero
        step_of_zero = zero.optimizer.step

        def noted() -> None:
            found.extend(flat.numpy().tobytes() for flat in zero.fp32_groups_gradients_flat)
            step_of_zero()

        zero.optimizer.step = noted
        for step in range(NUM_STEPS):
            batch = batch_of(case, step)
            result = pretraining_step(engine, batch, 1e-2)
            found += [result.loss, result.accuracies, result.gradient_norm, result.skipped]
            found.append(heldout(engine, batch))
    state = {
        f"{name}/{key}": tensor.clone()
        for name, one in engine.snapshot().items()
        for key, tensor in one.tensors.items()
    }
    engine.close()
    return found, state


@in_one_rank
@pytest.mark.parametrize("name", CASES)
def test_steps_in_graphs_have_the_bits_of_eager(name: str) -> None:
    """With dropout, clipping and evaluations between the steps; signs of zeros too."""
    case, grid = CASES[name], make_grid(1)
    expected, expected_state = trained(case, grid, None)
    graphs = RecordedGraphs(case.draws)
    found, state = trained(case, grid, graphs)
    assert graphs.num_captures == 2
    assert graphs.num_replays == NUM_STEPS * case.accumulation - 4
    assert found == expected
    assert_same_bits(state, expected_state)


@in_one_rank
def test_a_seed_of_the_host_in_a_graph_is_seen() -> None:
    """The masks of all micro-batches are then those of one: the stand-in tells."""
    case, grid = Case(), make_grid(1)
    expected, _ = trained(case, grid, None)
    forward_of = MaskedMicroBatch.forward_of

    def with_key(batch: MaskedMicroBatch, model: Any, inputs: Mapping[str, Tensor]) -> Any:
        key: Any = batch.dropout_key
        return forward_of(batch, model, {**inputs, "dropout": key})

    with mock.patch.object(MaskedMicroBatch, "forward_of", with_key):
        found, _ = trained(case, grid, RecordedGraphs())
    assert found != expected


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.sum().item(), "the host waits for aten::_local_scalar_dense"),
        (lambda x: x.nonzero(), "the host waits for aten::nonzero"),
        (lambda x: x[x > 0], "the host waits for aten::index"),
        (lambda x: x.bernoulli_(0.5), "aten::bernoulli_ draws"),
    ],
)
def test_a_wait_or_a_draw_in_a_graph_is_seen(function: Any, message: str) -> None:
    drawing = Recorder(draws=False)
    with pytest.raises(AssertionError, match=message), drawing:
        function(torch.ones(3))


@in_one_rank
def test_forms_beyond_the_limit_run_kernel_by_kernel(caplog: pytest.LogCaptureFixture) -> None:
    case, grid = Case(), make_grid(1)
    expected, _ = trained(case, grid, None)
    graphs = RecordedGraphs()
    with mock.patch("pipeline.engine.graphed_passes.MAX_FORMS", 1):
        found, _ = trained(case, grid, graphs)
    assert graphs.num_captures == 1
    assert found == expected
    assert caplog.text.count("further ones run kernel by kernel") == 1


@in_one_rank
def test_no_graph_outlives_its_settings() -> None:
    """The rate of dropout is part of the kernels."""
    case, grid = Case(accumulation=1), make_grid(1)
    losses = []
    for graphs in (None, RecordedGraphs()):
        with as_on_a_gpu(), mock.patch(WARM_UPS, 1):
            engine = engine_of(case, grid, graphs)
            for rate in (0.1, 0.5):
                config = case.config
                model = config.model.model_copy(update={"hidden_dropout": rate})
                engine.enter_phase(model, config)
                found = [pretraining_step(engine, batch_of(case, n), 1e-2).loss for n in range(3)]
                losses.append(found)
    assert losses[:2] == losses[2:]
    assert losses[0] != losses[1]


@in_one_rank
def test_a_step_that_is_not_finite_leaves_nothing_behind() -> None:
    case, grid = Case(), make_grid(1)
    with as_on_a_gpu(), mock.patch(WARM_UPS, 1):
        engine, expected = (engine_of(case, grid, RecordedGraphs()) for _ in range(2))
        pretraining_step(expected, batch_of(case, 0), 1e-2)
        run = GraphedPasses.run
        broken = functools.partialmethod(_with_infinite_scales, run)
        with mock.patch.object(GraphedPasses, "run", broken):
            assert pretraining_step(engine, batch_of(case, 0), 1e-2).skipped
        pretraining_step(engine, batch_of(case, 0), 1e-2)
    first, second = (
        {name: one.tensors["weight"] for name, one in each.snapshot().items()}
        for each in (engine, expected)
    )
    assert_same_bits(first, second)


def _with_infinite_scales(
    passes: GraphedPasses, run: Any, micro_batch: Any, heads: Any, scales: Tensor
) -> Any:
    return run(passes, micro_batch, heads, scales * torch.inf)


def test_without_a_gpu_graphs_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"compute\.cuda_graphs on needs a CUDA device"):
        CudaGraphs(torch.device("cpu"))


class FakeCapture:
    """`torch.cuda.graph` of a capture that CUDA ends, if it has an error."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            raise RuntimeError("operation failed due to a previous error during capture")


def test_a_capture_that_fails_names_the_key_and_its_reason() -> None:
    """A GPU is not needed to see which calls are made."""
    graph = mock.Mock()
    fakes: dict[str, Any] = {
        name: mock.Mock() for name in ("Stream", "graph_pool_handle", "current_stream", "stream")
    }
    fakes |= {"CUDAGraph": lambda: graph, "graph": FakeCapture}
    with mock.patch.multiple(torch.cuda, **fakes):
        graphs = CudaGraphs(torch.device("cuda", 0))
        x = torch.ones(1)
        results, replay = graphs.capture(lambda: (x,))
        assert results == (x,)
        graph.replay.assert_called_once_with()
        replay()
        assert graph.replay.call_count == 2
        message = r"compute\.cuda_graphs on: CUDA cannot capture .*: no such kernel\n.* auto"
        with pytest.raises(ConfigError, match=message):
            graphs.capture(mock.Mock(side_effect=RuntimeError("no such kernel")))
        with pytest.raises(torch.OutOfMemoryError):
            graphs.capture(mock.Mock(side_effect=torch.OutOfMemoryError("full")))


def test_a_copy_from_the_host_in_a_cuda_graph_is_refused() -> None:
    tensor: Any = SimpleNamespace(device=torch.device("cpu"))
    capturing = mock.patch.object(torch.cuda, "is_current_stream_capturing", return_value=True)
    with capturing, pytest.raises(AssertionError, match="a copy from the host"):
        to_device(tensor, torch.device("cuda", 0))
