"""Whole runs that stop early, reduce their learning rate and keep their best checkpoint."""

import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from configs.load import ConfigError
from pipeline.checkpoint.best import find_best
from pipeline.checkpoint.manifest import list_checkpoints, read_manifest
from pipeline.engine.deepspeed_engine import Engine
from pipeline.engine.step import StepResult
from pipeline.pretraining import loop
from pipeline.pretraining.step import pretraining_step
from pipeline.run.config import TrainConfig
from pipeline.run.plan import plan_run
from pipeline.run.run_folder import DONE_NAME, checkpoints_folder, is_done
from pipeline.tracking.event_log import LOG_NAME, read_events
from tests.gloo import RankError, run_ranks
from tests.pipeline.training_run import (
    assert_same_bits,
    final_state,
    make_config,
    make_rows,
    metrics,
    pretrain,
)
from tests.synthetic_rows import SyntheticSource, write_data_set

EARLY: dict[str, Any] = {
    # No evaluation after the first one is an improvement of 10 nats.
    "evaluation": {
        "every_steps": 2,
        "rows_per_source": 4,
        "early_stopping": {"patience": 4, "min_delta": 10},
        "plateau": {"patience": 1, "factor": 0.5, "min_delta": 10},
    },
    "schedule": {"type": "constant"},
    "checkpoint": {"every_steps": 3, "keep_last": 1},
}
STEPS = 10
"""Steps to the evaluation that ends the run."""
RATES = [1e-3, 1e-3, 1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4, 2.5e-4, 1.25e-4, 1.25e-4]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder)
    return folder


@pytest.fixture(scope="module")
def whole(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run on two tensor-parallel ranks that stopped early."""
    config = make_config(
        rows, tmp_path_factory.mktemp("whole") / "run", parallel={"tensor": 2}, **EARLY
    )
    run_ranks(pretrain, 2, config)
    return config


def pretrain_with_a_death(config: TrainConfig, dies_in: int) -> None:
    """Trains, but dies in the step number `dies_in` of this launch."""
    taken = itertools.count(1)

    def step(*arguments: Any) -> StepResult:
        if next(taken) == dies_in:
            raise RuntimeError("a sudden death")
        return pretraining_step(*arguments)

    with mock.patch.object(loop, "pretraining_step", step):
        pretrain(config)


def ends_of(config: TrainConfig) -> list[dict[str, str]]:
    events = [event for event, _ in read_events(config.output / LOG_NAME)]
    return [event["tags"] for event in events if event["kind"] == "end"]


def steps_kept(config: TrainConfig) -> list[int]:
    return [read_manifest(path).step for path in list_checkpoints(checkpoints_folder(config))]


def test_a_run_stops_early_with_a_reduced_learning_rate(whole: TrainConfig) -> None:
    assert metrics(whole, "learning_rate") == RATES
    losses = {
        step: values["heldout_loss"]
        for step, values in enumerate(values_of(whole), start=1)
        if "heldout_loss" in values
    }
    best = min(losses, key=lambda step: losses[step])
    assert ends_of(whole) == [
        {
            "state": "finished",
            "stopped_early": f"step {STEPS}",
            "best_step": str(best),
            "best_score": repr(losses[best]),
        }
    ]
    found = find_best(checkpoints_folder(whole))
    assert found is not None
    assert found.manifest.step == best
    assert found.manifest.heldout_loss == losses[best]
    assert steps_kept(whole) == sorted({best, STEPS})
    assert is_done(whole)


def values_of(config: TrainConfig) -> list[dict[str, float]]:
    events = [event for event, _ in read_events(config.output / LOG_NAME)]
    return [event["values"] for event in events if event["kind"] == "metrics"]


def test_killed_and_resumed_it_is_bit_equal_and_does_not_train_on(
    rows: Path, whole: TrainConfig, tmp_path: Path
) -> None:
    config = make_config(rows, tmp_path / "run", parallel={"tensor": 2}, **EARLY)
    for dies_in in (6, 4):
        with pytest.raises(RankError, match="sudden death"):
            run_ranks(pretrain_with_a_death, 2, config, dies_in)
        assert not is_done(config)
    run_ranks(pretrain, 2, config)
    assert_same_bits(final_state(whole), final_state(config))
    assert metrics(config, "learning_rate") == RATES
    (config.output / DONE_NAME).unlink()  # killed between the last save and DONE
    run_ranks(pretrain, 2, config)
    assert len(metrics(config, "loss")) == STEPS
    assert ends_of(config)[-1] == ends_of(whole)[-1]


def test_what_ends_the_waiting_lets_a_stopped_run_continue_on_another_grid(
    rows: Path, whole: TrainConfig, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {**EARLY, "parallel": {"zero_stage": 3}}
    config = make_config(rows, tmp_path / "run", **settings)
    run_ranks(pretrain, 2, config)
    assert metrics(config, "learning_rate") == RATES
    assert metrics(config, "loss") == pytest.approx(metrics(whole, "loss"), rel=1e-5)
    assert is_done(config)
    longer = make_config(rows, tmp_path / "run", **{**settings, "total_rows": 30 * 16})
    assert not is_done(longer)
    run_ranks(pretrain, 1, longer)  # its patience is over: nothing is trained
    assert len(metrics(longer, "loss")) == STEPS
    assert is_done(longer)
    evaluation = {**EARLY["evaluation"], "early_stopping": {"patience": 6, "min_delta": 10}}
    patient = make_config(rows, tmp_path / "run", **{**settings, "evaluation": evaluation})
    assert not is_done(patient)
    run_ranks(pretrain, 1, patient)
    assert len(metrics(patient, "loss")) == STEPS + 4
    rates = metrics(patient, "learning_rate")
    assert rates[STEPS:] == [6.25e-5, 6.25e-5, 3.125e-5, 3.125e-5]
    assert is_done(patient)
    # With a further phase, the evaluations of this one no longer end the run.
    then = [{"data": {"path": str(rows), "workers": 0}, "total_rows": 32}]
    further = make_config(rows, tmp_path / "run", **settings, then=then)
    assert not is_done(further)
    run_ranks(pretrain, 1, further)
    assert len(metrics(further, "loss")) == 20 + 2
    assert ends_of(further)[-1]["stopped_early"] == "no"
    assert metrics(further, "learning_rate")[-2:] == [1e-3, 1e-3]


def test_after_a_rollback_the_state_is_that_of_the_checkpoint(rows: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        **EARLY,
        "checkpoint": {"every_steps": 5},
        "stability": {"max_skipped_in_a_row": 2},
        "optimizer": {"type": "muon", "lr": 1e-3, "adamw_lr": 5e-4},
    }
    evaluation = {**EARLY["evaluation"], "early_stopping": None}
    rolled = make_config(rows, tmp_path / "rolled", **{**settings, "evaluation": evaluation})
    run_ranks(pretrain_with_bad_rows, 1, rolled, range(7 * 16, 9 * 16))
    taken = metrics(rolled, "rows")
    assert taken == [16 * n for n in (*range(1, 8), *range(10, 21))]
    # Evaluations after the steps 2, 4, ..., counted without the steps that were rolled back.
    expected = [1e-3 * 0.5 ** max(0, (step - 1) // 2 - 1) for step in range(1, 19)]
    assert metrics(rolled, "learning_rate") == pytest.approx(expected, rel=1e-12)


def pretrain_with_bad_rows(config: TrainConfig, bad_rows: range) -> None:
    def step(engine: Engine, batch: Any, learning_rate: float, *rest: Any) -> StepResult:
        result = pretraining_step(engine, batch, learning_rate, *rest)
        rates = {group["lr"] for group in engine._zero.param_groups}
        assert rates == {learning_rate, learning_rate / 2}  # of matrices and of all others
        is_bad = batch.step.start_row in bad_rows
        return dataclasses.replace(result, skipped=True) if is_bad else result

    with mock.patch.object(loop, "pretraining_step", step):
        pretrain(config)


def test_an_evaluation_that_is_the_best_is_saved(rows: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "evaluation": {"every_steps": 2, "rows_per_source": 4},
        "total_rows": 8 * 16,
    }
    plain = make_config(rows, tmp_path / "plain", **settings)
    run_ranks(pretrain, 1, plain)
    keeping = make_config(
        rows, tmp_path / "kept", checkpoint={"every_steps": 3, "keep_best": 9}, **settings
    )
    run_ranks(pretrain, 1, keeping)
    assert_same_bits(final_state(plain), final_state(keeping))
    assert metrics(plain, "loss") == metrics(keeping, "loss")
    losses = {
        step: values["heldout_loss"]
        for step, values in enumerate(values_of(keeping), start=1)
        if "heldout_loss" in values
    }
    assert list(losses) == [2, 4, 6, 8]
    improved = [s for s in losses if losses[s] < min([99.0, *(losses[o] for o in losses if o < s)])]
    assert set(improved) <= set(steps_kept(keeping))
    assert steps_kept(plain) == [8]


def test_data_without_held_out_rows_is_refused(rows: Path, tmp_path: Path) -> None:
    import numpy as np

    blocks = iter([np.full((64, 32), 9, dtype=np.uint16)])
    source = SyntheticSource("train", "a", blocks)
    write_data_set(tmp_path / "rows", (source,), row_tokens=32, vocab_size=131, block_rows=64)
    wait = {"patience": 1}
    then: dict[str, Any] = {"data": {"path": str(tmp_path / "rows")}, "total_rows": 64}
    then |= {"batch": {"global_rows": 16, "micro_rows": 4}}
    make = functools.partial(make_config, rows, tmp_path / "run")
    for key in ("early_stopping", "plateau"):
        with pytest.raises(ConfigError, match=f"evaluation.{key}: .*no held-out rows"):
            plan_run(make(evaluation={key: wait}, then=[then]), 1)
    first: dict[str, Any] = {
        "data": {"path": str(tmp_path / "rows")},
        "evaluation": {"early_stopping": wait},
    }
    last = {**then, "data": {"path": str(rows)}}
    plan_run(make(**first, then=[last]), 1)
