"""LAMB, StableAdamW, fp16 with loss scaling, optimizer in host memory: values, grids, resume."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from model.parameters import ParameterSpec
from pipeline.checkpoint.manifest import find_checkpoint
from pipeline.optim.lamb import LambConfig, lamb_step
from pipeline.optim.layerwise_adam import LayerwiseAdam, WholeParameter
from pipeline.optim.loss_scale import LossScale, LossScaleConfig
from pipeline.optim.optimizer import AdamSettings
from pipeline.optim.stable_adamw import StableAdamWConfig, stable_adamw_step
from pipeline.optim.whole_matrices import Piece
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import checkpoints_folder
from pipeline.tracking.event_log import LOG_NAME, read_events
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

LAMB = {"type": "lamb", "lr": 1e-2}
STABLE = {"type": "stable_adamw", "lr": 1e-3}
SLOW_WORLDS = [pytest.param(2, stage, marks=pytest.mark.slow) for stage in (2, 3)]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder)
    return folder


def reference_step(
    kind: str,
    weight: torch.Tensor,
    gradients: Sequence[torch.Tensor],
    config: AdamSettings,
    adapts: bool,
) -> torch.Tensor:
    """The weight after the steps with `gradients`, written as in the papers, in fp64."""
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for count, gradient in enumerate(gradients, start=1):
        mean = config.beta1 * mean + (1 - config.beta1) * gradient
        square = config.beta2 * square + (1 - config.beta2) * gradient**2
        mean_hat = mean / (1 - config.beta1**count)
        square_hat = square / (1 - config.beta2**count)
        decay = config.weight_decay if adapts else 0.0
        update = mean_hat / (square_hat.sqrt() + config.eps) + decay * weight
        factor = torch.ones((), dtype=weight.dtype)
        if adapts and kind == "lamb":
            factor = weight.norm() / update.norm()
        if adapts and kind == "stable_adamw":
            relative = gradient**2 / square_hat.clamp(min=config.eps**2)
            factor = 1 / relative.mean().sqrt().clamp(min=1)
        weight = weight - config.lr * factor * update
    return weight


@pytest.mark.parametrize("kind", ["lamb", "stable_adamw"])
@in_one_rank
def test_steps_are_those_of_the_papers(kind: str) -> None:
    config: AdamSettings = StableAdamWConfig(type="stable_adamw", weight_decay=0.1)
    adapted_step = stable_adamw_step
    if kind == "lamb":
        config, adapted_step = LambConfig(type="lamb", weight_decay=0.1), lamb_step
    generator = torch.Generator().manual_seed(1)
    shapes = [(5, 3), (7, 2), (4,)]
    weights = [torch.randn(shape, generator=generator) for shape in shapes]
    growth = [1.0, 30.0, 0.1, 300.0]  # gradients that jump, so that StableAdamW slows down
    gradients = [[torch.randn(s, generator=generator) * g for g in growth] for s in shapes]
    flat = torch.cat([weight.flatten() for weight in weights[:2]]).requires_grad_()
    plain = weights[2].clone().requires_grad_()
    optimizer = LayerwiseAdam(
        [
            {"params": [flat], "weight_decay": config.weight_decay, "adapt": True},
            {"params": [plain], "adapt": False},
        ],
        adapted_step=adapted_step,
        device=torch.device("cpu"),
        **config.arguments(),
    )
    optimizer.locate(
        {flat: [Piece(0, 0, 15), Piece(1, 15, 14)], plain: [Piece(2, 0, 4)]},
        [WholeParameter(w.numel(), 1, ParameterSpec(tuple(w.shape), None)) for w in weights],
        tp_size=1,
    )
    for step in range(len(growth)):
        flat.grad = torch.cat([gradients[0][step].flatten(), gradients[1][step].flatten()])
        plain.grad = gradients[2][step]
        optimizer.step()
    results = [flat[:15].view(5, 3), flat[15:].view(7, 2), plain]
    for weight, ours, history, adapts in zip(
        weights, results, gradients, (True, True, False), strict=True
    ):
        history = [gradient.double() for gradient in history]
        expected = reference_step(kind, weight.double(), history, config, adapts)
        torch.testing.assert_close(ours.detach().double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["lamb", "stable_adamw"])
def test_the_host_reads_no_value_of_the_device(kind: str) -> None:
    """Here a device without values, which raises where the host would wait."""
    lamb, stable = LambConfig(type="lamb"), StableAdamWConfig(type="stable_adamw")
    config: AdamSettings = lamb if kind == "lamb" else stable
    meta = torch.device("meta")
    weights = [torch.nn.Parameter(torch.empty(shape, device=meta)) for shape in ((6,), (2, 3))]
    optimizer = config.build(weights, meta)
    assert isinstance(optimizer, LayerwiseAdam)
    wholes = [WholeParameter(6, 1, ParameterSpec((6,), None))] * 2
    pieces: dict[torch.Tensor, list[Piece]] = {
        weight: [Piece(number, 0, len(weight))] for number, weight in enumerate(weights)
    }
    optimizer.locate(pieces, wholes, tp_size=1)
    with mock.patch("torch.distributed.all_reduce"):
        for _ in range(2):
            for weight in weights:
                weight.grad = torch.empty_like(weight)
            optimizer.step()


@pytest.mark.parametrize(
    ("optimizer", "grids"),
    [
        (LAMB, [(4, 2, 1), (2, 1, 3)]),
        (STABLE, [(2, 2, 2)]),
        pytest.param(LAMB, [(2, 1, 2)], marks=pytest.mark.slow),
        pytest.param(STABLE, [(4, 2, 1), (2, 1, 3)], marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_grid_does_not_change_the_steps(
    rows: Path, tmp_path: Path, optimizer: dict[str, Any], grids: list[tuple[int, int, int]]
) -> None:
    one = make_config(rows, tmp_path / "one", optimizer=optimizer)
    run_ranks(pretrain, 1, one)
    assert metrics(one, "loss")[-1] < metrics(one, "loss")[0]
    for world_size, tensor, zero_stage in grids:
        parallel = {"tensor": tensor, "zero_stage": zero_stage}
        other = make_config(
            rows, tmp_path / f"zero{zero_stage}", optimizer=optimizer, parallel=parallel
        )
        run_ranks(pretrain, world_size, other)
        for name in ("loss", "gradient_norm"):
            assert metrics(other, name) == pytest.approx(metrics(one, name), rel=1e-5), parallel


def test_lamb_in_bf16_resumes_bit_equal(rows: Path, tmp_path: Path) -> None:
    settings = {"optimizer": LAMB, "precision": "bf16", "parallel": {"tensor": 2}}
    assert_resumes_bit_equal(rows, tmp_path, 2, settings)


def test_loss_scale_halves_at_an_overflow_and_doubles_after_a_window() -> None:
    config = LossScaleConfig(initial=8, window_steps=2, smallest=2)
    scale = LossScale(scale=8)
    seen = []
    for overflowed in (True, True, True, False, False, False):
        scale = scale.after(overflowed, config)
        seen.append(scale.scale)
    assert seen == [4, 2, 2, 2, 4, 4]


@pytest.mark.parametrize(("world_size", "zero_stage"), [(1, 1), *SLOW_WORLDS])
def test_fp16_finds_its_loss_scale_and_resumes_bit_equal(
    rows: Path, tmp_path: Path, world_size: int, zero_stage: int
) -> None:
    settings: dict[str, Any] = {
        "precision": "fp16",
        "parallel": {"zero_stage": zero_stage},
        "loss_scale": {"initial": 2.0**22, "window_steps": 4},
    }
    whole = assert_resumes_bit_equal(rows, tmp_path, world_size, settings)
    skipped, scales = metrics(whole, "skipped"), metrics(whole, "loss_scale")
    assert skipped[0] == 1.0  # 2^22 is more than fp16 can hold
    assert 0 < sum(skipped) < 15
    assert scales[0] == 2.0**22 > min(scales)
    assert any(b > a for a, b in itertools.pairwise(scales))  # and it grows again
    exact = make_config(rows, tmp_path / "exact")
    run_ranks(pretrain, 1, exact)
    # Until the first step that is taken, both have the start weights: norms are of different rows.
    first = skipped.index(0.0)
    assert metrics(whole, "loss")[0] == pytest.approx(metrics(exact, "loss")[0], rel=1e-3)
    assert 0.5 < metrics(whole, "gradient_norm")[first] / metrics(exact, "gradient_norm")[0] < 2


@pytest.mark.parametrize(
    ("world_size", "zero_stage", "precision"),
    [
        (2, 2, "fp32"),
        pytest.param(1, 1, "bf16", marks=pytest.mark.slow),
        pytest.param(2, 3, "bf16", marks=pytest.mark.slow),
    ],
)
def test_optimizer_in_host_memory(
    rows: Path, tmp_path: Path, world_size: int, zero_stage: int, precision: str
) -> None:
    settings: dict[str, Any] = {
        "precision": precision,
        "parallel": {"zero_stage": zero_stage, "offload_optimizer": True},
    }
    whole = assert_resumes_bit_equal(rows, tmp_path, world_size, settings)
    parallel = {"zero_stage": zero_stage}
    kept = make_config(rows, tmp_path / "kept", precision=precision, parallel=parallel)
    run_ranks(pretrain, world_size, kept)
    tolerance = 1e-5 if precision == "fp32" else 1e-2
    assert metrics(whole, "loss") == pytest.approx(metrics(kept, "loss"), rel=tolerance)
    assert metrics(whole, "gradient_norm") == pytest.approx(
        metrics(kept, "gradient_norm"), rel=10 * tolerance
    )


def assert_resumes_bit_equal(
    rows: Path, folder: Path, world_size: int, settings: dict[str, Any]
) -> TrainConfig:
    """The uninterrupted run, after a stopped and resumed one was found equal to it."""
    whole = make_config(rows, folder / "whole", **settings)
    run_ranks(pretrain, world_size, whole)
    stopped = make_config(rows, folder / "stopped", **settings)
    run_ranks(pretrain_until_signalled, world_size, stopped, 7)
    checkpoint, _ = find_checkpoint(checkpoints_folder(stopped))
    assert checkpoint is not None
    assert 7 <= checkpoint.manifest.step < 20
    run_ranks(pretrain, world_size, stopped)
    assert_same_bits(final_state(whole), final_state(stopped))
    assert len(list(read_events(stopped.output / LOG_NAME)))
    return whole
