"""Runs whose config changes in mid-run: a further phase, another precision, other batches."""

from pathlib import Path
from typing import Any

import pytest

from configs.load import UserError
from pipeline.checkpoint.manifest import list_checkpoints, read_manifest
from pipeline.run.config import TrainConfig
from pipeline.run.plan import plan_run
from pipeline.run.run_folder import check_claim, checkpoints_folder, is_done
from pipeline.tracking.event_log import LOG_NAME, read_events
from tests.gloo import run_ranks
from tests.pipeline.training_run import (
    assert_same_bits,
    final_state,
    make_config,
    make_rows,
    metrics,
    pretrain,
)

SCHEDULE = {"type": "linear", "warmup_rows": 64, "total_rows": 320}
PRECISIONS = ("fp32", "bf16", "fp16")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder)
    return folder


@pytest.fixture(scope="module")
def losses(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of 12 steps in fp32."""
    folder = tmp_path_factory.mktemp("whole")
    config = make_config(rows, folder / "run", schedule=SCHEDULE, total_rows=12 * 16)
    run_ranks(pretrain, 1, config)
    return metrics(config, "loss")


@pytest.mark.parametrize(
    ("before", "after", "zero_stage"),
    [
        *((a, b, 1) for a in PRECISIONS for b in PRECISIONS if a != b),
        ("fp16", "bf16", 2),
        ("bf16", "fp16", 3),
    ],
)
def test_a_run_continues_in_another_precision(
    rows: Path, losses: list[float], tmp_path: Path, before: str, after: str, zero_stage: int
) -> None:
    for total_rows, precision in ((6 * 16, before), (12 * 16, after)):
        config = make_config(
            rows,
            tmp_path / "run",
            schedule=SCHEDULE,
            total_rows=total_rows,
            precision=precision,
            loss_scale={"initial": 1024.0},
            parallel={"zero_stage": zero_stage},
        )
        run_ranks(pretrain, 1, config)
    assert metrics(config, "loss") == pytest.approx(losses, abs=2e-2)
    assert metrics(config, "skipped") == [0.0] * 12
    scales = [values.get("loss_scale") for values in all_values(config)]
    expected = {"fp16": 1024.0, "bf16": None, "fp32": None}
    assert scales == [expected[before]] * 6 + [expected[after]] * 6


def all_values(config: TrainConfig) -> list[dict[str, float]]:
    events = [event for event, _ in read_events(config.output / LOG_NAME)]
    return [event["values"] for event in events if event["kind"] == "metrics"]


def test_a_finished_run_gets_a_further_phase(rows: Path, tmp_path: Path) -> None:
    make_rows(tmp_path / "longer", rows=128, row_tokens=64)
    phase = {
        "data": {"path": str(tmp_path / "longer"), "workers": 0},
        "total_rows": 40,
        "batch": {"global_rows": 8, "micro_rows": 4},
    }
    model = {**make_config(rows, tmp_path).model.model_dump(), "max_row_tokens": 64}
    settings: dict[str, Any] = {"total_rows": 96, "model": model}
    whole = make_config(rows, tmp_path / "whole", then=[phase], **settings)
    run_ranks(pretrain, 1, whole)
    first = make_config(rows, tmp_path / "parts", **settings)
    run_ranks(pretrain, 1, first)
    assert is_done(first)
    both = make_config(rows, tmp_path / "parts", then=[phase], **settings)
    assert not is_done(both)
    run_ranks(pretrain, 1, both)
    assert is_done(both)
    assert_same_bits(final_state(whole), final_state(both))
    assert metrics(whole, "loss") == metrics(both, "loss")

    longer_first = make_config(rows, tmp_path / "parts", then=[phase], model=model, total_rows=192)
    with pytest.raises(UserError, match=r"total_rows: 96 before, 192 now \(after 96 rows"):
        run_fingerprint(longer_first)
    batch = {"global_rows": 4, "micro_rows": 4}
    other_batch = make_config(
        rows, tmp_path / "parts", then=[{**phase, "total_rows": 80, "batch": batch}], **settings
    )
    with pytest.raises(UserError, match=r"then\.0\.batch\.global_rows: 8 before, 4 now"):
        run_fingerprint(other_batch)


def run_fingerprint(config: TrainConfig) -> list[str]:
    return check_claim(config, plan_run(config, 1).data_fingerprint)


def test_a_checkpoint_records_the_held_out_loss_of_its_own_step(rows: Path, tmp_path: Path) -> None:
    config = make_config(
        rows,
        tmp_path / "run",
        total_rows=7 * 16,
        schedule=SCHEDULE,
        evaluation={"every_steps": 4, "rows_per_source": 4},
        checkpoint={"every_steps": 2, "keep_last": 1, "keep_best": 9},
    )
    run_ranks(pretrain, 1, config)
    manifests = [read_manifest(path) for path in list_checkpoints(checkpoints_folder(config))]
    measured = {
        number + 1: values["heldout_loss"]
        for number, values in enumerate(all_values(config))
        if "heldout_loss" in values
    }
    assert list(measured) == [4, 7]
    assert {manifest.step: manifest.heldout_loss for manifest in manifests} == measured
