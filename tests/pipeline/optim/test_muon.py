"""Muon: the update of whole matrices, the same at any grid, and its state."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.utils.flop_counter import FlopCounterMode

from model.config import ModelConfig
from model.flops import training_flops
from model.parameters import ParameterSpec
from pipeline.checkpoint.manifest import find_checkpoint
from pipeline.optim.layerwise_adam import WholeParameter
from pipeline.optim.muon import MuonConfig
from pipeline.optim.muon_step import Muon
from pipeline.optim.optimizer import MOMENTUM_KEY
from pipeline.optim.orthogonal import orthogonalised, orthogonalised_all
from pipeline.optim.whole_matrices import MatrixExchange, Piece, owners
from pipeline.run.memory import estimate_memory
from pipeline.run.plan import plan_run
from pipeline.run.run_folder import checkpoints_folder
from tests.gloo import in_one_rank, run_ranks
from tests.pipeline.pretraining.test_training import pretrain_until_signalled
from tests.pipeline.training_run import (
    assert_same_bits,
    final_state,
    make_config,
    make_rows,
    metrics,
    pretrain,
)

MUON: dict[str, Any] = {"type": "muon", "lr": 2e-3, "adamw_lr": 1e-3, "weight_decay": 0.05}
GATED: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "max_row_tokens": 32,
    "activation": {"type": "geglu"},
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder)
    return folder


@pytest.mark.parametrize("shape", [(24, 24), (8, 40), (40, 8)])
def test_the_singular_values_come_close_to_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    (result,) = orthogonalised(matrix[None], 5)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.65
    assert values.max() < 1.25
    turned = u.mT @ result @ v.mT  # diagonal: the singular vectors stay
    assert (turned - torch.diag(turned.diagonal())).abs().max() < 1e-4


def test_interleaved_matrices_are_separate() -> None:
    """Query, key and value lie as [heads, 3, size of a head] in one weight."""
    heads, size, columns = 2, 3, 6
    fused = torch.randn(heads * 3 * size, columns, generator=torch.Generator().manual_seed(0))
    result = orthogonalised_all({7: fused}, {7: (size,) * 3}, 5)[7]
    for number in range(3):
        one = fused.view(heads, 3, size, columns)[:, number].reshape(-1, columns)
        expected = orthogonalised(one[None], 5)[0] * 0.2 * 6**0.5
        found = result.view(heads, 3, size, columns)[:, number].reshape(-1, columns)
        torch.testing.assert_close(found, expected)


def test_grouped_queries_are_one_matrix() -> None:
    """The rows of a key/value head: those of its queries, its key, its value."""
    kv_heads, group, size, columns = 2, 3, 4, 6
    queries = torch.randn(kv_heads, group * size, columns)
    keys, values = torch.randn(2, kv_heads, size, columns).unbind()
    fused = torch.cat([queries, keys, values], dim=1).view(-1, columns)
    result = orthogonalised_all({0: fused}, {0: (group * size, size, size)}, 5)[0]
    parts = torch.split(result.view(kv_heads, -1, columns), [group * size, size, size], dim=1)
    for found, whole in zip(parts, (queries, keys, values), strict=True):
        matrix = whole.reshape(-1, columns)
        expected = orthogonalised(matrix[None], 5)[0] * 0.2 * max(matrix.shape) ** 0.5
        torch.testing.assert_close(found.reshape(-1, columns), expected)


@in_one_rank
def test_the_step_is_that_of_the_papers() -> None:
    """Against torch's own Muon, with fp32 iterations in place of its bf16 ones, on one matrix."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(6, 4, generator=generator)
    flat = weight.flatten().clone().requires_grad_()
    config = MuonConfig(type="muon", weight_decay=0.1)
    group = {"params": [flat], "weight_decay": 0.1, "whole": True}
    group |= {"momentum": config.momentum, "iterations": 5}
    optimizer = Muon([group], device=torch.device("cpu"), **config.arguments())
    spec = ParameterSpec((6, 4), partition_dim=0, matrices=(1,))
    optimizer.locate({flat: [Piece(0, 0, 24)]}, [WholeParameter(24, 1, spec)], tp_size=1)
    momentum = torch.zeros(6, 4)
    reference = weight.clone().requires_grad_()
    theirs = torch.optim.Muon(
        [reference], lr=config.lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(3):
        gradient = torch.randn(6, 4, generator=generator)
        flat.grad = gradient.flatten()
        reference.grad = gradient.clone()
        optimizer.step()
        theirs.step()  # type: ignore[no-untyped-call]
        momentum = 0.95 * momentum + 0.05 * gradient
        change = orthogonalised((0.05 * gradient + 0.95 * momentum)[None], 5)[0] * 0.2 * 6**0.5
        weight = weight * (1 - config.lr * 0.1) - config.lr * change
    torch.testing.assert_close(flat.detach().view(6, 4), weight)
    torch.testing.assert_close(flat.detach().view(6, 4), reference.detach(), atol=1e-3, rtol=0)


def test_matrices_are_divided_by_their_cost() -> None:
    shapes = dict.fromkeys(range(8), (8, 8)) | {8: (32, 8), 9: (8, 32)}
    assert sorted(number for owned in owners(shapes, 3) for number in owned) == list(range(10))
    assert [len(of) for of in owners(dict.fromkeys(range(9), (4, 4)), 3)] == [3, 3, 3]
    assert owners({}, 2) == [[], []]
    assert owners({0: (2, 2)}, 3) == [[0], [], []]


def test_operations_are_few_beside_those_of_a_step() -> None:
    """docs/training.md: RoBERTa base, a step of 8,192 rows of 512 tokens; counted by torch."""
    model = ModelConfig(
        num_layers=12, hidden_size=768, num_attention_heads=12, ffn_hidden_size=3072
    )
    size = (64, 64, 64)  # query, key and value of a head
    shapes = {0: (3 * 768, 768), 1: (768, 768), 2: (3072, 768), 3: (768, 3072)}
    parts: dict[int, tuple[int, ...]] = {0: size, 1: (1,), 2: (1,), 3: (1,)}
    layer = {number: torch.empty(shape, device="meta") for number, shape in shapes.items()}
    with FlopCounterMode(display=False) as counter:
        orthogonalised_all(layer, parts, MuonConfig(type="muon").iterations)
    operations = model.num_layers * counter.get_total_flops()
    step = training_flops(model, 50_265, 8192, 512, masked_tokens=8192 * 77)
    assert operations / step == pytest.approx(0.00065, rel=0.01)


def exchange_on_a_grid(tp_size: int) -> None:
    """Pieces cut anywhere, some ranks without a piece, one with padding after the last."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    dp_rank, tp_rank = divmod(rank, tp_size)
    specs = {
        0: ParameterSpec((4, 6), partition_dim=0, matrices=(1,)),
        1: ParameterSpec((2, 8), partition_dim=1, matrices=(1,)),
        2: ParameterSpec((2, 6), partition_dim=0, matrices=(1,)),
    }
    full = {
        number: torch.arange(spec.full_shape[0] * spec.full_shape[1], dtype=torch.float32).view(
            spec.full_shape
        )
        + 100 * number
        for number, spec in specs.items()
    }
    dp_size = world_size // tp_size
    pieces, values, at = [], [], 0
    for number, spec in specs.items():
        dim = spec.partition_dim or 0
        length = spec.full_shape[dim] // tp_size
        local = full[number].narrow(dim, tp_rank * length, length).flatten()
        share = -(-len(local) // dp_size) if number != 2 else len(local) + 1
        mine = local[dp_rank * share : (dp_rank + 1) * share]
        if number != 2:  # ZeRO 3 pads
            mine = torch.nn.functional.pad(mine, (0, share - len(mine)))
        pieces.append(Piece(number, at, len(mine)))
        values.append(mine)
        at += len(mine)
    flat = torch.cat(values)
    exchange = MatrixExchange(pieces, specs, tp_size, torch.device("cpu"))
    owned = exchange.collect(flat)
    for number, matrix in owned.items():
        assert torch.equal(matrix, full[number]), number
    result = flat.clone()
    exchange.give_back({number: -2 * matrix for number, matrix in owned.items()}, result)
    assert torch.equal(result, -2 * flat)


@pytest.mark.parametrize(("world_size", "tp_size"), [(1, 1), (2, 1), (2, 2), (3, 1), (4, 2)])
def test_matrices_are_collected_and_given_back(world_size: int, tp_size: int) -> None:
    run_ranks(exchange_on_a_grid, world_size, tp_size)


@pytest.mark.parametrize(
    ("world_size", "tensor", "zero_stage"),
    [
        (2, 2, 1),
        (2, 1, 3),
        (4, 2, 2),
        pytest.param(2, 1, 1, marks=pytest.mark.slow),
        pytest.param(2, 1, 2, marks=pytest.mark.slow),
        pytest.param(4, 2, 3, marks=pytest.mark.slow),
        pytest.param(4, 4, 1, marks=pytest.mark.slow),
    ],
)
def test_the_grid_does_not_change_the_steps(
    rows: Path, tmp_path: Path, world_size: int, tensor: int, zero_stage: int
) -> None:
    one = make_config(rows, tmp_path / "one", optimizer=MUON, model=GATED)
    run_ranks(pretrain, 1, one)
    assert metrics(one, "loss")[-1] < metrics(one, "loss")[0]
    parallel = {"tensor": tensor, "zero_stage": zero_stage}
    other = make_config(rows, tmp_path / "other", optimizer=MUON, model=GATED, parallel=parallel)
    run_ranks(pretrain, world_size, other)
    assert metrics(other, "loss") == pytest.approx(metrics(one, "loss"), rel=1e-5)
    assert metrics(other, "gradient_norm") == pytest.approx(metrics(one, "gradient_norm"), rel=1e-4)
    expected, found = final_state(one), final_state(other)
    assert expected.keys() == found.keys()
    for name, tensor_ in expected.items():
        if name.startswith("weight"):
            torch.testing.assert_close(found[name], tensor_, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("world_size", "zero_stage"), [(1, 1), (2, 3)])
def test_it_keeps_one_moment_of_matrices_and_resumes_bit_equal(
    rows: Path, tmp_path: Path, world_size: int, zero_stage: int
) -> None:
    settings: dict[str, Any] = {
        "optimizer": MUON,
        "precision": "bf16",
        "parallel": {"zero_stage": zero_stage},
    }
    whole = make_config(rows, tmp_path / "whole", **settings)
    run_ranks(pretrain, world_size, whole)
    state = final_state(whole)
    matrices = {name.partition("/")[2] for name in state if name.startswith(MOMENTUM_KEY)}
    others = {name.partition("/")[2] for name in state if name.startswith("exp_avg_sq")}
    assert len(matrices) == 2 * 4
    assert all(name.endswith("weight") and "layers" in name for name in matrices)
    assert not matrices & others
    assert matrices | others == {n.partition("/")[2] for n in state if n.startswith("weight/")}
    stopped = make_config(rows, tmp_path / "stopped", **settings)
    run_ranks(pretrain_until_signalled, world_size, stopped, 7)
    checkpoint, _ = find_checkpoint(checkpoints_folder(stopped))
    assert checkpoint is not None
    assert checkpoint.manifest.optimizer_step == checkpoint.manifest.step
    run_ranks(pretrain, world_size, stopped)
    assert_same_bits(state, final_state(stopped))


def test_its_checkpoint_is_resumed_with_adamw_and_at_another_grid(
    rows: Path, tmp_path: Path
) -> None:
    one = make_config(rows, tmp_path / "one", optimizer=MUON)
    run_ranks(pretrain, 1, one)
    run_ranks(pretrain_until_signalled, 1, make_config(rows, tmp_path / "run", optimizer=MUON), 7)
    other = make_config(
        rows, tmp_path / "run", optimizer=MUON, parallel={"tensor": 2, "zero_stage": 2}
    )
    run_ranks(pretrain, 2, other)
    assert metrics(other, "loss") == pytest.approx(metrics(one, "loss"), rel=1e-5)
    run_ranks(pretrain_until_signalled, 1, make_config(rows, tmp_path / "then", optimizer=MUON), 7)
    run_ranks(pretrain, 1, make_config(rows, tmp_path / "then"))


def test_the_planner_counts_one_moment_less(rows: Path, tmp_path: Path) -> None:
    adam = estimate_memory(plan_run(make_config(rows, tmp_path / "adam"), 1))
    muon = estimate_memory(plan_run(make_config(rows, tmp_path / "muon", optimizer=MUON), 1))
    in_matrices = 2 * (4 * 32 * 32 + 2 * 32 * 128)
    assert adam.optimizer - muon.optimizer == 4 * in_matrices
