"""The memory that the planner computes against ranks that train on this machine."""

import gc
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from model.compute import ComputeConfig
from model.config import ModelConfig
from model.heads import MaskedLanguageModel
from model.parallel.grid import Grid, make_grid, single_rank_grid
from model.row_context import KnownRows
from pipeline.pretraining.batches import run_batches
from pipeline.pretraining.engine import build_engine
from pipeline.pretraining.resume import plan_segments
from pipeline.pretraining.step import pretraining_step
from pipeline.run.activations import cpu_layer_bytes, selective_layer_bytes
from pipeline.run.config import TrainConfig
from pipeline.run.memory import PROCESS_BYTES, MemoryEstimate, count_trained, estimate_memory
from pipeline.run.plan import plan_run
from tests.gloo import in_one_rank, run_ranks
from tests.pipeline.planning.measured_memory import Measured, process_bytes, tensor_bytes
from tests.pipeline.training_run import make_config, make_rows

TOKENS, VOCAB = 128, 4096
SELECTIVE = {"activation_checkpointing": {"type": "selective"}}
MODEL = {"num_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "max_row_tokens": TOKENS}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder, rows=256, row_tokens=TOKENS, vocab_size=VOCAB)
    return folder


def config_of(rows: Path, micro_rows: int = 2, ranks: int = 2, **changes: Any) -> TrainConfig:
    """Two steps, each of two micro-batches on `ranks` ranks."""
    model = {**MODEL, **changes.pop("model", {})}
    step_rows = 2 * ranks * micro_rows
    batch = {"global_rows": step_rows, "micro_rows": micro_rows}
    kept: dict[str, Any] = {"total_rows": 2 * step_rows, "schedule": {"type": "constant"}}
    return make_config(rows, rows / "run", model=model, batch=batch, **kept, **changes)


def train(config: TrainConfig) -> Measured:
    """Two steps; what is between their last two micro-batches, and the largest size."""
    plan = plan_run(config, dist.get_world_size())
    grid = make_grid(plan.tp_size)
    before = process_bytes("VmRSS")
    engine = build_engine(plan, grid, None)
    states: list[int] = []
    start_micro_batch = engine.start_micro_batch

    def measured(is_last: bool) -> None:
        if is_last:
            states.append(tensor_bytes())
        start_micro_batch(is_last)

    engine.start_micro_batch = measured  # type: ignore[method-assign]
    segments = plan_segments(plan, None)
    with closing(run_batches(plan, segments, (), grid.dp_rank, 0)) as batches:
        for batch in batches:
            pretraining_step(engine, batch, 1e-3, data_wait_s=0.0)
    return Measured(states[-1], process_bytes("VmHWM") - before)


@pytest.mark.parametrize(
    ("ranks", "changes"),
    [
        (1, {"precision": "bf16"}),
        (1, {"precision": "fp16"}),
        (2, {"precision": "fp16"}),
        (1, {"precision": "fp32", "optimizer": {"type": "muon"}}),
        (2, {"precision": "bf16"}),
        (2, {"precision": "bf16", "parallel": {"tensor": 2}}),
        (2, {"precision": "bf16", "parallel": {"zero_stage": 2}}),
    ],
    ids=str,
)
def test_state_is_what_ranks_hold(rows: Path, ranks: int, changes: dict[str, Any]) -> None:
    config = config_of(rows, **changes)
    found = run_ranks(train, ranks, config)[0]
    plan = plan_run(config, ranks)
    planned = estimate_memory(plan)
    # In fp32 and fp16 DeepSpeed's bucket stays from the first step on.
    in_bucket = 0 if config.precision == "bf16" else planned.buffers
    assert planned.state + in_bucket == pytest.approx(found.state, rel=0.05)


def test_zero_3_holds_its_bucket_too(rows: Path) -> None:
    """And gathers all weights of a small model: none of them is missing in a forward pass."""
    config = config_of(rows, precision="bf16", parallel={"zero_stage": 3})
    found = run_ranks(train, 2, config)[0]
    planned = estimate_memory(plan_run(config, 2))
    weights = planned.weights * 2
    bucket = planned.buffers - weights - weights  # less the gathered weights, and the copies
    assert planned.state + bucket == pytest.approx(found.state, rel=0.05)


def test_zero_3_holds_a_copy_of_the_weights_with_its_neighbours(rows: Path) -> None:
    parallel = {"zero_stage": 3, "zero_gather_ranks": 2}
    config = config_of(rows, ranks=4, precision="bf16", parallel=parallel)
    found = run_ranks(train, 4, config)[0]
    planned = estimate_memory(plan_run(config, 4))
    whole = 2 * count_trained(config, VOCAB)
    assert planned.weights == pytest.approx(whole / 4 + whole / 2, rel=0.01)
    bucket = planned.buffers - whole - whole
    assert planned.state + bucket == pytest.approx(found.state, rel=0.05)


def test_a_process_is_as_large_as_planned(rows: Path) -> None:
    """Of a model that is large beside a process; benchmarks/plan_memory.py has whole launches."""
    wide = {"num_layers": 4, "hidden_size": 512, "num_attention_heads": 8}
    config = config_of(rows, micro_rows=8, model=wide, precision="fp32")
    (found,) = run_ranks(train, 1, config)
    planned = estimate_memory(plan_run(config, 1), on_cpu=True)
    assert planned.total_gb * 1e9 == pytest.approx(found.growth + PROCESS_BYTES, rel=0.15)


def test_ranks_on_cpus_copy_what_they_save(rows: Path) -> None:
    """A run that saves before its end holds the copy beside its activations."""

    def estimate(ranks: int = 1, **changes: Any) -> MemoryEstimate:
        config = config_of(rows, micro_rows=8, precision="bf16", **changes)
        return estimate_memory(plan_run(config, ranks), on_cpu=True)

    at_end = estimate()
    assert at_end.buffers == 0  # the activations are larger than the copy
    copied = at_end.optimizer
    for rules in ({"every_steps": 1}, {"every_minutes": 5.0}, {"keep_best": 1}):
        assert estimate(checkpoint=rules).buffers == pytest.approx(copied, rel=0.01)
    stopping = {"early_stopping": {"patience": 2}}
    assert estimate(evaluation=stopping).buffers == pytest.approx(copied, rel=0.01)
    shared = estimate(2, checkpoint={"every_steps": 1})
    assert shared.buffers == pytest.approx(copied / 2, rel=0.01)
    assert shared.overhead == at_end.overhead


def test_ranks_on_cpus_hold_what_accelerators_offload(rows: Path) -> None:
    plan = plan_run(config_of(rows, parallel={"offload_optimizer": True}), 1)
    parameters = count_trained(plan.config, VOCAB)
    assert estimate_memory(plan).optimizer == 0
    assert estimate_memory(plan, on_cpu=True).optimizer == pytest.approx(12 * parameters, rel=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm_placement": {"type": "pre"}, "positions": {"type": "rotary"}},
        {"activation": {"type": "geglu"}, "hidden_dropout": 0.0, "attention_dropout": 0.0},
        {"num_key_value_heads": 2, "query_key_norm": True},
        {"num_key_value_heads": 2, "attention_dropout": 0.0},
        {"query_key_norm": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@in_one_rank
def test_layers_keep_what_is_planned(changes: dict[str, Any], dtype: torch.dtype) -> None:
    """The bytes that autograd saves, of five layers less those of two."""
    kept = [_saved_bytes({**MODEL, **changes, "num_layers": n}, dtype) for n in (2, 5)]
    model = ModelConfig.model_validate({**MODEL, **changes})
    precision = "fp32" if dtype == torch.float32 else "bf16"
    how = _How(model, ComputeConfig(), 4 if precision == "fp32" else 2)
    assert cpu_layer_bytes(how, 4, TOKENS, 1) == pytest.approx((kept[1] - kept[0]) / 3, rel=0.05)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm_placement": {"type": "pre"}, "positions": {"type": "rotary"}},
        {"activation": {"type": "geglu"}, "num_key_value_heads": 2, "query_key_norm": True},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("backend", "tensor", "by_tokens"),
    [("sdpa", 1, False), ("explicit", 2, False), ("sdpa", 2, True)],
)
def test_layers_keep_what_is_planned_of_selective_recomputation(
    changes: dict[str, Any], backend: str, tensor: int, by_tokens: bool
) -> None:
    """The bytes of tensors that are there after the forward pass, of five layers less of two."""
    changes = {"attention_dropout": 0.0, **changes}  # with it sdpa is no single operator on a CPU
    settings = {"attention_backend": backend, "sequence_parallel": by_tokens}
    compute = ComputeConfig.model_validate({**settings, **SELECTIVE})
    found = run_ranks(_kept_bytes, tensor, {**MODEL, **changes}, compute, tensor)
    how = _How(ModelConfig.model_validate({**MODEL, **changes}), compute, 2)
    planned = selective_layer_bytes(how, 4, TOKENS, tensor, on_cpu=True)
    for kept in found:
        assert planned == pytest.approx(kept, rel=0.05)


def _kept_bytes(tree: dict[str, Any], compute: ComputeConfig, tp_size: int) -> float:
    grid = make_grid(tp_size)
    # The first makes megatron-core's buffer.
    _, few, many = (_kept_by(grid, {**tree, "num_layers": n}, compute) for n in (1, 2, 5))
    return (many - few) / 3


def _kept_by(grid: Grid, tree: dict[str, Any], compute: ComputeConfig) -> int:
    model = ModelConfig.model_validate(tree)
    network = MaskedLanguageModel(grid, model, compute, VOCAB).to(torch.bfloat16).train()
    tokens, positions = torch.full((4, TOKENS), 11), torch.arange(8).repeat(4, 1)
    gc.collect()
    before = tensor_bytes()
    loss = network(tokens, positions, tokens[:, :8].clone(), 5, KnownRows(False))[0]
    kept = tensor_bytes() - before
    loss.backward()
    return kept


class _How:
    def __init__(self, model: ModelConfig, compute: ComputeConfig, value_bytes: int) -> None:
        self.model, self.compute, self.value_bytes = model, compute, value_bytes


def _saved_bytes(tree: dict[str, Any], dtype: torch.dtype) -> int:
    model = ModelConfig.model_validate(tree)
    with single_rank_grid() as grid:
        network = MaskedLanguageModel(grid, model, ComputeConfig(), VOCAB).to(dtype).train()
        own = {p.untyped_storage().data_ptr() for p in network.parameters()}
        saved: dict[int, torch.UntypedStorage] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                saved[storage.data_ptr()] = storage
            return tensor

        tokens = torch.full((4, TOKENS), 11)
        positions = torch.arange(8).repeat(4, 1)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = network(tokens, positions, tokens[:, :8].clone(), 5, KnownRows(False))[0]
        assert loss.requires_grad
        return sum(storage.nbytes() for storage in saved.values())
