"""Replaying a step gives its rows with the losses that were recorded."""

from pathlib import Path

import pytest

from configs.load import UserError, validate
from pipeline.launch.local_ranks import run_ranks
from pipeline.replay import check_same_rows, checkpoint_before, replay, rows_of_step
from pipeline.run.config import TrainConfig
from pipeline.run.plan import plan_run
from pipeline.run.trained_model import read_trained
from tests.pipeline.test_export import trained  # noqa: F401
from tests.pipeline.training_run import make_config, make_rows, metrics, pretrain


@pytest.mark.parametrize(
    ("objective", "backend"),
    [("mlm", "auto"), ("mlm", "varlen"), ("causal", "auto"), ("replaced_tokens", "auto")],
)
def test_losses_of_a_replayed_step_are_those_of_the_step(
    objective: str,
    backend: str,
    trained: TrainConfig,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = {**trained.model.model_dump(), "hidden_dropout": 0.0, "attention_dropout": 0.0}
    config = make_config(
        trained.data.path,
        tmp_path / "run",
        model=model,
        checkpoint={"every_steps": 6},
        total_rows=16 * 16,
        objective={"type": objective},
        compute={"attention_backend": backend},
    )
    run_ranks(pretrain, 1, config)
    # No kernel of it computes fp32 on a GPU, as a replay does.
    monkeypatch.setattr("model.attention_masks.sequence_bounds", None)
    plan = plan_run(config, 1)
    checkpoint = checkpoint_before(config, 13)
    assert checkpoint.manifest.step == 12
    phase, taken = rows_of_step(plan, config, 13)
    assert (phase, taken.start_row, taken.global_rows) == (0, 12 * 16, 16)
    model_12 = read_trained(config, checkpoint, lambda: plan.tokenizer)
    (rows,) = run_ranks(replay, 1, plan, model_12, phase, taken, 16)
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


def test_other_rows_than_the_checkpoints_are_refused(
    trained: TrainConfig,  # noqa: F811
    tmp_path: Path,
) -> None:
    checkpoint = checkpoint_before(trained, 999)
    of_the_run = read_trained(trained, checkpoint, lambda: trained.data.path / "tokenizer.json")
    check_same_rows(plan_run(trained, 2), of_the_run)
    make_rows(tmp_path / "rows", seed=1)
    data = {**trained.data.model_dump(), "path": tmp_path / "rows"}
    changes = {"data": data, "total_rows": 160}
    changed = validate({**trained.model_dump(), **changes}, TrainConfig, origin="test")
    with pytest.raises(UserError, match="is of a run on different rows") as error:
        check_same_rows(plan_run(changed, 2), of_the_run)
    assert "the fingerprint of the data set changed" in str(error.value)
    assert "total_rows: 320 before, 160 now" in str(error.value)


def test_the_mixture_of_a_step_is_the_one_that_it_was_trained_with(
    trained: TrainConfig,  # noqa: F811
    tmp_path: Path,
) -> None:
    config = make_config(
        trained.data.path,
        tmp_path / "run",
        total_rows=10 * 16,
        checkpoint={"every_steps": 5, "keep_last": 9},
    )
    run_ranks(pretrain, 1, config)
    weights = {"a": 0.0, "b": 1.0}
    changed = make_config(
        *(trained.data.path, tmp_path / "run"),
        total_rows=16 * 16,
        weights=weights,
        checkpoint={"every_steps": 5, "keep_last": 9},
        schedule={"type": "linear", "warmup_rows": 64, "total_rows": 160},
    )
    run_ranks(pretrain, 1, changed)
    plan = plan_run(changed, 1)
    sources = []
    for step in (9, 12):
        checkpoint = checkpoint_before(changed, step)
        weights_before = read_trained(changed, checkpoint, lambda: plan.tokenizer)
        (rows,) = run_ranks(replay, 1, plan, weights_before, *rows_of_step(plan, changed, step), 16)
        sources.append({row.source for row in rows})
    assert sources == [{"a", "b"}, {"b"}]
