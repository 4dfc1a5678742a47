"""A file system that answers slowly delays no step, and no checkpoint is before its metrics."""

import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pipeline.checkpoint import writer
from pipeline.run.config import TrainConfig
from pipeline.tracking import event_log
from pipeline.tracking.event_log import LOG_NAME, read_events
from pipeline.tracking.in_order import InOrder
from pipeline.tracking.json_lines import append_lines
from pipeline.tracking.record import RunRecord
from tests.gloo import run_ranks
from tests.pipeline.training_run import make_config, make_rows, pretrain


def steps_in(folder: Path) -> list[int]:
    events = [event for event, _ in read_events(folder / LOG_NAME)]
    return [event["step"] for event in events if event["kind"] == "metrics"]


def record_of(folder: Path) -> RunRecord:
    record = RunRecord(make_config(folder / "rows", folder, tracking={"enabled": False}))
    record.start(0, {})
    return record


def test_metrics_do_not_wait_for_the_disk_and_stay_in_order(tmp_path: Path) -> None:
    record, answers = record_of(tmp_path), threading.Event()

    def late(*arguments: Any) -> None:
        assert answers.wait(30)
        append_lines(*arguments)

    with mock.patch.object(event_log, "append_lines", late):
        for step in range(1, 6):
            record.metrics(step, {"loss": 1.0})
        assert steps_in(tmp_path) == []
        before = time.time()
        time.sleep(0.05)
        answers.set()
        record.rollback("spike", 3, 5)
        for step in range(6, 9):
            record.metrics(step, {"loss": 1.0})
        record.end("finished")
    assert steps_in(tmp_path) == list(range(1, 9))
    events = [event for event, _ in read_events(tmp_path / LOG_NAME)]
    times = [event["time_ms"] for event in events if event["kind"] == "metrics"]
    assert times[:5] == sorted(times[:5])
    assert times[4] <= 1000 * before  # when the steps ended, not when they were written
    kinds = [event["kind"] for event in events]
    assert kinds.index("rollback") == kinds.index("metrics") + 5
    assert kinds[-1] == "end"


def test_values_are_those_of_the_call(tmp_path: Path) -> None:
    record, values = record_of(tmp_path), {"loss": 1.0}
    record.metrics(1, values)
    values["loss"] = 2.0
    record.wait()
    (event,) = (e for e, _ in read_events(tmp_path / LOG_NAME) if e["kind"] == "metrics")
    assert event["values"] == {"loss": 1.0}


def saved_before_its_metrics(config: TrainConfig) -> list[int]:
    """Steps whose checkpoint was started before their metrics were in the log."""
    save, early = writer.Saver.save, []

    def slow(*arguments: Any) -> None:
        time.sleep(0.05)
        append_lines(*arguments)

    def noted(saver: Any, manifest: Any, *arguments: Any) -> None:
        if manifest.step not in steps_in(config.output):
            early.append(manifest.step)
        save(saver, manifest, *arguments)

    with (
        mock.patch.object(event_log, "append_lines", slow),
        mock.patch.object(writer.Saver, "save", noted),
    ):
        pretrain(config)
    return early


def test_no_checkpoint_is_before_its_metrics(tmp_path: Path) -> None:
    make_rows(tmp_path / "rows")
    config = make_config(
        *(tmp_path / "rows", tmp_path / "run"),
        checkpoint={"every_steps": 3, "keep_last": 9},
        evaluation={"every_steps": 3, "rows_per_source": 4},
        tracking={"enabled": False},
    )
    assert run_ranks(saved_before_its_metrics, 1, config) == [[]]
    assert steps_in(config.output) == list(range(1, 21))


def test_an_error_of_a_call_is_raised_by_a_later_one() -> None:
    calls = InOrder("test")
    done: list[int] = []

    def fail() -> None:
        raise KeyError("a fault")

    calls.call(done.append, 1)
    calls.call(fail)
    with pytest.raises(KeyError, match="a fault"):
        calls.wait()
    calls.call(done.append, 2)
    calls.wait()
    assert done == [1, 2]
