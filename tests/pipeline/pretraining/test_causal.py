"""Runs with the causal objective: equal on any grid, resumed bit for bit, and they learn."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from configs.load import ConfigError, validate
from model import heads
from model.flops import encoder_flops, training_flops
from pipeline.engine.step import StepResult
from pipeline.finetuning.config import MlmConfig
from pipeline.pretraining import loop
from pipeline.pretraining.step import pretraining_step
from pipeline.run.config import TrainConfig
from pipeline.run.memory import estimate_memory, peak_activation_bytes
from pipeline.run.plan import plan_run
from tests.gloo import RankError, run_ranks
from tests.pipeline.training_run import (
    ROW_TOKENS,
    VOCAB_SIZE,
    assert_same_bits,
    final_state,
    make_config,
    make_rows,
    metrics,
    pretrain,
)

SETTINGS: dict[str, Any] = {"objective": {"type": "causal"}}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder)
    return folder


def pretrain_in_parts(config: TrainConfig) -> None:
    """With the logits of so few slots at a time that a micro-batch takes several parts."""
    with mock.patch.object(heads, "SLOTS_AT_ONCE", 50):
        pretrain(config)


def test_runs_are_equal_on_any_grid(rows: Path, tmp_path: Path) -> None:
    one = make_config(rows, tmp_path / "one", **SETTINGS, total_rows=96)
    run_ranks(pretrain, 1, one)
    assert metrics(one, "masked_tokens")[0] == 16 * (ROW_TOKENS - 1)
    for world_size, parallel, compute in (
        (2, {"tensor": 2}, {"sequence_parallel": True}),
        (2, {"zero_stage": 3}, {"activation_checkpointing": {"type": "layers"}}),
    ):
        other = make_config(
            rows,
            tmp_path / f"{parallel}",
            **SETTINGS,
            total_rows=96,
            parallel=parallel,
            compute=compute,
        )
        run_ranks(pretrain_in_parts, world_size, other)
        for name in ("loss", "gradient_norm"):
            assert metrics(other, name) == pytest.approx(metrics(one, name), rel=1e-5), name


def test_phases_may_change_the_objective_and_resume_bit_for_bit(rows: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "objective": {"type": "mlm", "mask_rate": 0.3},
        "total_rows": 64,
        "then": [
            {"total_rows": 80, "objective": {"type": "causal"}},
            {"total_rows": 64, "objective": {"type": "mlm"}},
        ],
    }
    whole = make_config(rows, tmp_path / "whole", **settings)
    run_ranks(pretrain, 2, whole)
    assert metrics(whole, "masked_tokens")[3:9] == [144.0, *[16.0 * (ROW_TOKENS - 1)] * 5]
    saved = make_config(rows, tmp_path / "saved", **settings, checkpoint={"every_steps": 6})
    with mock.patch.object(loop, "pretraining_step", fails_at(9)), pytest.raises(RankError):
        run_ranks(pretrain, 2, saved)
    run_ranks(pretrain, 2, saved)
    assert_same_bits(final_state(saved), final_state(whole))
    causal = plan_run(whole, 2)
    by_phase = [peak_activation_bytes(causal, phase, VOCAB_SIZE) for phase in causal.phases]
    assert by_phase[1] > by_phase[0] > by_phase[2]


def fails_at(step: int) -> Callable[..., StepResult]:
    """A step that raises an error when it is called for the `step`-th time."""
    calls = itertools.count(1)

    def take(*arguments: Any) -> StepResult:
        if next(calls) == step:
            raise RuntimeError("a faulty step")
        return pretraining_step(*arguments)

    return take


def test_a_run_learns_to_predict_the_next_token(rows: Path, tmp_path: Path) -> None:
    config = make_config(
        rows,
        tmp_path / "run",
        **SETTINGS,
        total_rows=60 * 16,
        optimizer={"type": "adamw", "lr": 1e-2},
        precision="bf16",
    )
    run_ranks(pretrain, 1, config)
    losses = metrics(config, "loss")
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_flops_and_memory_are_those_of_the_causal_mask(rows: Path, tmp_path: Path) -> None:
    causal = plan_run(make_config(rows, tmp_path / "run", **SETTINGS), 1)
    model = causal.config.model
    pairs = ROW_TOKENS * (ROW_TOKENS - 1) // 2
    difference = encoder_flops(model, ROW_TOKENS) - encoder_flops(model, ROW_TOKENS, True)
    assert difference == model.num_layers * 4 * pairs * model.hidden_size
    assert causal.phases[0].training_flops(model, 16, 400, True) == training_flops(
        model, VOCAB_SIZE, 16, ROW_TOKENS, 400, True
    )
    masked = plan_run(make_config(rows, tmp_path / "run"), 1)
    assert estimate_memory(causal).activations > estimate_memory(masked).activations


def test_fine_tuning_refuses_it_beside_its_tasks() -> None:
    tree = {"data": {"path": "rows"}, "rows_per_step": 8, "objective": {"type": "causal"}}
    with pytest.raises(ConfigError, match=r"objective.*causal.*mlm"):
        validate(tree, MlmConfig, "test")
