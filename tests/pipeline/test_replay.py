"""Replaying a step gives its rows with the losses that were recorded."""

from pathlib import Path

import pytest

from configs.load import UserError
from pipeline.launch.local_ranks import run_ranks
from pipeline.replay import checkpoint_before, replay, rows_of_step
from pipeline.run.config import TrainConfig
from pipeline.run.plan import plan_run
from tests.pipeline.test_export import trained  # noqa: F401
from tests.pipeline.training_run import make_config, metrics, pretrain


def test_losses_of_a_replayed_step_are_those_of_the_step(
    trained: TrainConfig,  # noqa: F811
    tmp_path: Path,
) -> None:
    model = {**trained.model.model_dump(), "hidden_dropout": 0.0, "attention_dropout": 0.0}
    config = make_config(
        trained.data.path, tmp_path / "run", model=model, checkpoint={"every_steps": 6}
    )
    run_ranks(pretrain, 1, config)
    plan = plan_run(config, 1)
    checkpoint = checkpoint_before(config, 13)
    assert checkpoint.manifest.step == 12
    phase, taken = rows_of_step(plan, config, 13)
    assert (phase, taken.start_row, taken.global_rows) == (0, 12 * 16, 16)
    (rows,) = run_ranks(replay, 1, plan, checkpoint, phase, taken, 16)
    assert len(rows) == 16
    masked = [len(row.answers) for row in rows]
    mean = sum(row.loss * count for row, count in zip(rows, masked, strict=True)) / sum(masked)
    assert mean == pytest.approx(metrics(config, "loss")[12], rel=1e-5)
    assert all(row.gradient_norm > 0 for row in rows)
    assert all("<mask>" in row.text or row.answers for row in rows)


def test_steps_that_cannot_be_replayed_are_reported(trained: TrainConfig) -> None:  # noqa: F811
    with pytest.raises(UserError, match="no step 999; the last recorded step is 20"):
        rows_of_step(plan_run(trained, 2), trained, 999)
    with pytest.raises(UserError, match="no complete checkpoint before step 3; it holds step-"):
        checkpoint_before(trained, 3)
