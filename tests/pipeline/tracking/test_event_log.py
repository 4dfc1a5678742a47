"""The event log survives torn lines, unreadable ones and a full disk."""

import errno
import json
import logging
import os
from pathlib import Path

import pytest

from pipeline.tracking import event_log, json_lines
from pipeline.tracking.event_log import EventLog, metric_points, read_events
from pipeline.tracking.record import RunRecord
from tests.pipeline.training_run import make_config


@pytest.fixture
def logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("pipeline"), "propagate", True)
    return caplog


def steps(folder: Path) -> list[int]:
    events = [event for event, _ in read_events(folder / "events.jsonl")]
    return [event["step"] for event in events if event["kind"] == "metrics"]


@pytest.mark.parametrize("num_bytes", [1, 20, 3])
def test_a_torn_last_line_is_removed_before_anything_is_appended(
    tmp_path: Path, logged: pytest.LogCaptureFixture, num_bytes: int
) -> None:
    log = EventLog(tmp_path)
    log.metrics(1, {"loss": 1.0})
    with (tmp_path / "events.jsonl").open("ab") as stream:
        stream.write(b'{"kind": "metrics", "time_ms": 1'[:num_bytes])
    EventLog(tmp_path).metrics(2, {"loss": 2.0})
    assert steps(tmp_path) == [1, 2]
    assert "the last line was incomplete" in logged.text
    for line in (tmp_path / "events.jsonl").read_text().splitlines():
        json.loads(line)


def test_a_last_line_that_only_lacks_its_end_is_kept(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.metrics(1, {"loss": 1.0})
    path = tmp_path / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    log.metrics(2, {"loss": 2.0})
    assert steps(tmp_path) == [1, 2]


@pytest.mark.parametrize(
    "line",
    [
        b"\x00" * 50,
        b'{"kind": "metr{"kind": "metrics"}',
        b"[1, 2]",
        b'{"kind": "metrics", "time_ms": 1, "step": "two", "values": {}}',
        b'{"kind": "metrics", "time_ms": 1, "step": 2, "values": {"loss": "x"}}',
        b'{"kind": "note", "time_ms": 1, "files": "a"}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_an_unreadable_line_is_skipped_and_reported_once(
    tmp_path: Path, logged: pytest.LogCaptureFixture, line: bytes
) -> None:
    log = EventLog(tmp_path)
    log.metrics(1, {"loss": 1.0})
    path = tmp_path / "events.jsonl"
    start = path.stat().st_size
    with path.open("ab") as stream:
        stream.write(line + b"\n")
    log.metrics(3, {"loss": 3.0})
    assert steps(tmp_path) == steps(tmp_path) == [1, 3]
    where = f"line 3 (bytes {start} to {start + len(line) + 1}) is unreadable"
    assert logged.text.count(where) == 1
    log.discard_after(1)
    assert steps(tmp_path) == [1]


def test_a_line_that_is_too_long_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog(tmp_path)
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", 200)
    with (tmp_path / "events.jsonl").open("ab") as stream:
        stream.write(b"x" * 1000 + b"\n")
    log.metrics(1, {"loss": 1.0})
    assert steps(tmp_path) == [1]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_does_not_end_training_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture, code: int
) -> None:
    log = EventLog(tmp_path)
    log.metrics(1, {"loss": 1.0})
    write, is_full = os.write, True

    def write_part(file: int, data: bytes) -> int:
        if is_full and data.startswith(b"{"):
            write(file, data[:10])
            raise OSError(code, os.strerror(code))
        return write(file, data)

    monkeypatch.setattr(os, "write", write_part)
    monkeypatch.setattr(event_log, "RETRY_S", 0.0)
    for step in (2, 3):
        log.metrics(step, {"loss": 1.0})
    assert log.num_unwritten == 2
    assert logged.text.count("training continues, events are kept in memory") == 1
    is_full = False
    log.metrics(4, {"loss": 1.0})
    assert steps(tmp_path) == [1, 2, 3, 4]
    assert log.num_unwritten == 0


def test_what_a_full_disk_lost_is_reported_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    config = make_config(tmp_path / "rows", tmp_path / "run")
    record = RunRecord(config)
    record.start(0, {})

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(event_log, "append_lines", fail)
    monkeypatch.setattr(event_log, "MAX_UNWRITTEN_BYTES", 1000)
    for step in range(1, 101):
        record.metrics(step, {"loss": 1.0})
    record.end("finished")
    assert "101 events could not be written and are lost" in logged.text


def test_metrics_that_cannot_be_removed_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    log = EventLog(tmp_path)
    for step in (1, 2, 3):
        log.metrics(step, {"loss": 1.0})

    def fail(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(event_log, "open_atomic", fail)
    log.discard_after(1)
    assert steps(tmp_path) == [1, 2, 3]
    assert "metrics of steps after 1 are not removed" in logged.text


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_only_a_regular_file_is_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "events.jsonl"
    if kind == "link":
        path.symlink_to("/etc/hostname")
    else:
        os.mkfifo(path)
    with pytest.raises(OSError, match=r"not a regular file|symbolic links"):
        next(read_events(path))


def test_the_last_value_of_a_step_that_was_repeated_counts(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    for step, values in ((1, {"loss": 1.0}), (3, {"loss": 9.0}), (2, {"loss": 2.0, "dev": 0.5})):
        log.metrics(step, values)
    log.append("note", {})
    log.metrics(3, {"loss": 3.0})
    found = metric_points(tmp_path, "loss", "dev", "none")
    assert found == {"loss": [(1, 1.0), (2, 2.0), (3, 3.0)], "dev": [(2, 0.5)], "none": []}
