"""ALUM in pretraining: equal to a plain loop on any grid, resumed bit for bit, refused by name."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from configs.load import ConfigError
from model.adversarial import gaussian_noise, row_keys
from model.flops import training_flops
from model.heads import MaskedLanguageModel
from model.label_slots import at_slots
from model.parallel.grid import make_grid
from pipeline.data.loader import special_ids
from pipeline.engine.step import StepResult
from pipeline.pretraining import loop
from pipeline.pretraining.batches import run_batches
from pipeline.pretraining.model import build_pretraining_model
from pipeline.pretraining.resume import plan_segments
from pipeline.pretraining.step import pretraining_step
from pipeline.run.config import TrainConfig
from pipeline.run.memory import estimate_memory
from pipeline.run.plan import plan_run
from tests.gloo import RankError, run_ranks
from tests.pipeline.training_run import (
    assert_same_bits,
    final_state,
    make_config,
    make_rows,
    metrics,
    pretrain,
)

# Larger than in the paper, so that the divergence is a good part of the loss.
ALUM: dict[str, Any] = {
    "type": "alum",
    "alpha": 10,
    "noise": 0.01,
    "step_size": 0.1,
    "steps": 2,
    "radius": 0.15,
}
SETTINGS: dict[str, Any] = {"adversarial": ALUM, "total_rows": 6 * 16}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder)
    return folder


@pytest.fixture(scope="module")
def one_rank(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    config = make_config(rows, tmp_path_factory.mktemp("one"), **SETTINGS)
    run_ranks(pretrain, 1, config)
    return config


@pytest.mark.parametrize(
    ("parallel", "compute"),
    [
        pytest.param(
            {"tensor": 2, "zero_stage": 2},
            {"sequence_parallel": True, "activation_checkpointing": {"type": "layers"}},
            id="tp2-zero2-sequence-parallel-checkpointing",
        ),
        pytest.param({"zero_stage": 3}, {}, id="dp2-zero3"),
        pytest.param({"zero_stage": 1}, {}, id="dp2-zero1", marks=pytest.mark.slow),
        pytest.param({"zero_stage": 2}, {}, id="dp2-zero2", marks=pytest.mark.slow),
        pytest.param({"tensor": 2}, {}, id="tp2", marks=pytest.mark.slow),
        pytest.param(
            {"tensor": 2, "zero_stage": 3},
            {"activation_checkpointing": {"type": "layers"}},
            id="tp2-zero3-checkpointing",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_grid_trains_alike(
    rows: Path,
    one_rank: TrainConfig,
    tmp_path: Path,
    parallel: dict[str, Any],
    compute: dict[str, Any],
) -> None:
    other = make_config(rows, tmp_path / "run", **SETTINGS, parallel=parallel, compute=compute)
    run_ranks(pretrain, 2, other)
    for key in ("loss", "mlm_loss", "adversarial_loss", "gradient_norm"):
        assert metrics(other, key) == pytest.approx(metrics(one_rank, key), rel=1e-5), key
    assert min(metrics(other, "adversarial_loss")) > 1e-3


def plain_step(config: TrainConfig) -> None:
    """Compares the first step of `config` with one of plain torch, from the same weights."""
    plan = plan_run(config, 1)
    grid = make_grid(1)
    special = special_ids(plan.phases[0].manifest)
    model = build_pretraining_model(config, config.model, special, grid, config.seed)
    batch = next(run_batches(plan, plan_segments(plan, None), (), 0, 0))
    keys = row_keys(config.seed, torch.arange(16).view(4, 4).numpy())
    count = (batch.labels >= 0).sum()
    mlm, divergence = torch.zeros(()), torch.zeros(())
    for tokens, positions, labels, key, mine in zip(
        *(t.long() for t in (batch.tokens, batch.positions, batch.labels)),
        *(batch.dropout_keys, keys),
        strict=True,
    ):
        is_used = labels.view(-1) >= 0
        clean = _logits(model, tokens, positions, key, None)[is_used]
        noise = gaussian_noise(mine, tokens, config.model.hidden_size, grid)
        perturbation = 0.01 * noise
        for _ in range(2):
            perturbation.requires_grad_()
            found = _divergence(
                clean.detach(), _logits(model, tokens, positions, key, perturbation)[is_used]
            )
            (gradient,) = torch.autograd.grad(found, perturbation)
            direction = gradient / gradient.abs().max(dim=1, keepdim=True).values
            perturbation = (perturbation + 0.1 * direction).clamp(-0.15, 0.15).detach()
        found = _divergence(clean, _logits(model, tokens, positions, key, perturbation)[is_used])
        loss = F.cross_entropy(clean, labels.view(-1)[is_used], reduction="sum")
        ((loss + 10 * found) / count).backward()  # type: ignore[no-untyped-call]
        mlm, divergence = mlm + loss.detach() / count, divergence + found.detach() / count
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    for name, value in (
        ("mlm_loss", mlm),
        ("adversarial_loss", divergence),
        ("gradient_norm", norm),
    ):
        assert metrics(config, name)[0] == pytest.approx(float(value), rel=1e-5), name


def _logits(
    model: MaskedLanguageModel,
    tokens: Tensor,
    positions: Tensor,
    dropout_key: int,
    perturbation: Tensor | None,
) -> Tensor:
    hidden = model.encoder(tokens, dropout_key, perturbation=perturbation)
    logits: Tensor = model.head(at_slots(hidden, positions), model.encoder.embeddings.word)
    return logits[:, : model.vocab_size]


def _divergence(first: Tensor, second: Tensor) -> Tensor:
    log_p, log_q = first.log_softmax(dim=1), second.log_softmax(dim=1)
    one = F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return one + F.kl_div(log_p, log_q, reduction="sum", log_target=True)


def test_a_step_is_that_of_a_plain_loop(one_rank: TrainConfig) -> None:
    run_ranks(plain_step, 1, one_rank)


def test_resumed_is_bit_equal_and_evaluated_without_perturbation(
    rows: Path, tmp_path: Path
) -> None:
    more: dict[str, Any] = {
        "parallel": {"zero_stage": 2},
        "precision": "bf16",
        "checkpoint": {"every_steps": 3},
        # The regulariser ends with the first phase.
        "then": [{"total_rows": 32, "adversarial": {"type": "none"}}],
    }
    whole = make_config(rows, tmp_path / "whole", **SETTINGS, **more)
    run_ranks(pretrain, 2, whole)
    stopped = make_config(rows, tmp_path / "stopped", **SETTINGS, **more)
    with mock.patch.object(loop, "pretraining_step", fails_at(5)), pytest.raises(RankError):
        run_ranks(pretrain, 2, stopped)
    run_ranks(pretrain, 2, stopped)
    assert_same_bits(final_state(stopped), final_state(whole))
    lines = (whole.output / "events.jsonl").read_text().splitlines()
    assert sum('"adversarial_loss"' in line for line in lines) == 6


def fails_at(step: int) -> Callable[..., StepResult]:
    """A step that raises an error when it is called for the `step`-th time."""
    calls = itertools.count(1)

    def take(*arguments: Any) -> StepResult:
        if next(calls) == step:
            raise RuntimeError("a faulty step")
        return pretraining_step(*arguments)

    return take


def test_memory_and_operations_count_all_passes(rows: Path, tmp_path: Path) -> None:
    plain = plan_run(make_config(rows, tmp_path / "run"), 1)
    alum = plan_run(make_config(rows, tmp_path / "run", adversarial={"type": "alum"}), 1)
    model, manifest = plain.config.model, plain.phases[0].manifest
    whole = training_flops(model, manifest.vocab_size, 16, manifest.row_tokens, 100)
    assert alum.phases[0].training_flops(model, 16, 100) == round(whole * 8 / 3)
    assert plain.phases[0].training_flops(model, 16, 100) < whole  # the last layer: labels only
    activations = [estimate_memory(plan).activations for plan in (plain, alum)]
    assert activations[1] > 2 * activations[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objective": {"type": "causal"}}, "adversarial alum does not go with objective causal"),
        ({"objective": {"type": "replaced_tokens"}}, "does not go with objective replaced_tokens"),
        ({"precision": "fp16"}, "precision fp16 does not go with adversarial"),
        (
            {"then": [{"total_rows": 32, "objective": {"type": "causal"}}]},
            "then.0: adversarial alum does not go with objective causal",
        ),
        ({"adversarial": {"type": "smart"}}, "adversarial"),
    ],
)
def test_what_it_does_not_go_with_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_config(Path("rows"), Path("run"), **{"adversarial": {"type": "alum"}, **changes})
