"""Instability makes a run roll back and skip rows; a hang ends it with the stacks of threads."""

import dataclasses
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pipeline.checkpoint.manifest import CheckpointManifest, find_checkpoint
from pipeline.data.loader import StepBatch
from pipeline.engine.deepspeed_engine import Engine
from pipeline.engine.step import StepResult
from pipeline.pretraining import loop
from pipeline.pretraining.step import pretraining_step
from pipeline.reporting.launches import ROLLED_BACK
from pipeline.reporting.run_record import read_run
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import checkpoints_folder, is_done
from tests.gloo import RankError, run_ranks
from tests.pipeline.training_run import (
    make_config,
    make_rows,
    metrics,
    pretrain,
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder)
    return folder


def newest(config: TrainConfig) -> CheckpointManifest:
    checkpoint, problems = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None, problems
    return checkpoint.manifest


@pytest.mark.parametrize("kind", ["spike", "not finite"])
def test_instability_rolls_back_and_skips_the_rows(rows: Path, tmp_path: Path, kind: str) -> None:
    stability = {"window_steps": 20, "spike_steps": 3, "max_skipped_in_a_row": 3}
    settings: dict[str, Any] = {
        "total_rows": 36 * 16,
        "checkpoint": {"every_steps": 15},
        "stability": stability,
    }
    config = make_config(rows, tmp_path / "run", parallel={"tensor": 2}, **settings)
    bad_rows = range(24 * 16, 27 * 16)
    run_ranks(pretrain_with_bad_rows, 2, config, bad_rows, kind)
    skipped = newest(config).skipped
    assert [(window.start_row, window.end_row) for window in skipped] == [(24 * 16, 27 * 16)]
    assert newest(config).consumed_rows == 36 * 16
    assert newest(config).step == 33
    assert is_done(config)
    assert metrics(config, "rows") == [16 * n for n in (*range(1, 25), *range(28, 37))]
    first, second = read_run(config.output).launches.all
    assert (first.state, first.last_step) == (ROLLED_BACK, 15)
    assert (second.resumed_from, second.removed_to, second.last_step) == (15, 26, 33)
    assert second.rollback is not None
    assert (second.rollback.start_row, second.rollback.end_row) == (24 * 16, 27 * 16)


def test_instability_that_does_not_end_stops_the_run(rows: Path, tmp_path: Path) -> None:
    stability = {"max_skipped_in_a_row": 2, "max_rollbacks": 1}
    config = make_config(rows, tmp_path / "run", stability=stability)
    with pytest.raises(RankError, match="after 1 rollbacks"):
        run_ranks(pretrain_with_bad_rows, 1, config, range(10**9), "not finite")
    assert not is_done(config)


def pretrain_with_bad_rows(config: TrainConfig, bad_rows: range, kind: str) -> None:
    """Trains with an engine that reports instability on some positions of the stream."""

    def step(engine: Engine, batch: StepBatch, *arguments: Any) -> StepResult:
        result = pretraining_step(engine, batch, *arguments)
        if batch.step.start_row not in bad_rows:
            return result
        changes: dict[str, Any] = {"loss": 1e3} if kind == "spike" else {"skipped": True}
        return dataclasses.replace(result, **changes)

    with mock.patch.object(loop, "pretraining_step", step):
        pretrain(config)


def test_a_hang_shows_stacks_and_ends_every_rank(
    rows: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = make_config(rows, tmp_path / "run", hang_timeout_s=6)
    started_at = time.monotonic()
    with pytest.raises(RankError):
        run_ranks(pretrain_that_hangs_at, 2, config, 5 * 16)
    assert time.monotonic() - started_at < 60
    stacks = capfd.readouterr().err
    assert "Timeout (0:00:06)!" in stacks
    assert "hang_for_ever" in stacks


def pretrain_that_hangs_at(config: TrainConfig, row: int) -> None:
    """Trains; the last rank does not come back from the step that starts at `row`."""
    import torch.distributed as dist

    def hang_for_ever(engine: Engine, batch: StepBatch, *arguments: Any) -> StepResult:
        if batch.step.start_row == row and dist.get_rank() == dist.get_world_size() - 1:
            time.sleep(1000)
        return pretraining_step(engine, batch, *arguments)

    with mock.patch.object(loop, "pretraining_step", hang_for_ever):
        pretrain(config)
