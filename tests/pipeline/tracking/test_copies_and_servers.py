"""A copied folder is a new run in MLflow, a second server gets the whole record, files are safe."""

import contextlib
import json
import logging
import os
import shutil
import signal
import sqlite3
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from configs.load import UserError
from pipeline.run.config import TrainConfig
from pipeline.run.folder_identity import IDENTITY_NAME
from pipeline.run.run_folder import claim
from pipeline.tracking import sender_process
from pipeline.tracking.checkpoint_record import CHECKPOINTS_NAME
from pipeline.tracking.event_log import EventLog
from pipeline.tracking.record import RunRecord
from pipeline.tracking.sender import Sender
from pipeline.tracking.sender_process import SenderProcess, report_unsent, send_rest
from pipeline.tracking.sent import STATE_NAME, run_id_of
from pipeline.tracking.tracked_run import recorded_run, sqlite_uri, tracked_run
from pipeline.tracking.unsent import count_unsent
from tests.pipeline.training_run import make_config


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """A run of seven steps that was sent."""
    config = config_in(tmp_path, "run")
    claim(config, "rows")
    log = EventLog(config.output)
    content = {"params": {"seed": 7}, "tags": {"state": "running"}, "datasets": [DATA_SET]}
    log.append("start", {**content, "resumed_from": 0})
    for step in range(1, 8):
        log.metrics(step, {"loss": float(step)})
    entries = [
        {"step": 5, "path": "/there", "sha256": "0", "end_row": 80, "first_row": 0},
        {"step": 7, "path": "/there", "sha256": "1", "end_row": 112, "first_row": 80},
        {"step": 5, "pruned": True},
    ]
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    (config.output / CHECKPOINTS_NAME).write_text(lines)
    send(config)
    return config


DATA_SET = {"name": "rows", "digest": "01", "source": "{}", "profile": "{}", "context": "x"}


def config_in(folder: Path, output: str, database: str = "mlflow.db") -> TrainConfig:
    uri = sqlite_uri(folder / database)
    return make_config(folder / "rows", folder / output, tracking={"uri": uri})


def send(config: TrainConfig) -> None:
    sender = Sender(tracked_run(config))
    try:
        sender.send_pending()
    finally:
        sender.close()


def client_of(config: TrainConfig) -> MlflowClient:
    return MlflowClient(tracking_uri=config.tracking.uri)


def run_of(config: TrainConfig) -> Run:
    return client_of(config).get_run(run_id_of(config.output))


def losses(config: TrainConfig, run_id: str | None) -> list[float]:
    history = client_of(config).get_metric_history(run_id, "loss")
    return [metric.value for metric in history]


def resume(config: TrainConfig, step: int, loss: float) -> None:
    claim(config, "rows")
    log = EventLog(config.output)
    log.discard_after(step)
    log.append("start", {"resumed_from": step})
    log.metrics(step + 1, {"loss": loss})


@pytest.mark.parametrize("fate", ["kept", "deleted"])
def test_a_copy_leaves_the_record_of_the_original(
    tmp_path: Path, config: TrainConfig, fate: str
) -> None:
    first = run_id_of(config.output)
    copy = config_in(tmp_path, "copy")
    shutil.copytree(config.output, copy.output)
    if fate == "deleted":
        shutil.rmtree(config.output)
    resume(copy, 3, 40.0)
    send(copy)
    assert losses(config, first) == [1, 2, 3, 4, 5, 6, 7]
    assert losses(copy, run_id_of(copy.output)) == [1, 2, 3, 40]
    run = run_of(copy)
    assert run.info.run_id != first
    assert run.data.tags["parent_run"] == first
    assert run.data.tags["parent_folder"] == str(config.output)
    assert run.data.params["seed"] == "7"


def test_a_copy_that_only_sends_is_a_new_run_too(tmp_path: Path, config: TrainConfig) -> None:
    copy = config_in(tmp_path, "copy")
    shutil.copytree(config.output, copy.output)
    assert run_id_of(copy.output) == run_id_of(config.output)
    assert count_unsent(tracked_run(copy)) != ""
    assert run_id_of(copy.output) is None
    send(copy)
    assert run_of(copy).data.tags["parent_run"] == run_id_of(config.output)


def test_a_moved_folder_is_the_same_run(tmp_path: Path, config: TrainConfig) -> None:
    first = run_id_of(config.output)
    moved = config_in(tmp_path, "moved")
    config.output.rename(moved.output)
    resume(moved, 3, 40.0)
    send(moved)
    assert run_id_of(moved.output) == first
    assert losses(moved, first) == [1, 2, 3, 40]


def test_a_folder_with_an_id_that_a_different_one_sends_under_becomes_a_new_run(
    tmp_path: Path, config: TrainConfig
) -> None:
    first = run_id_of(config.output)
    path = config.output / IDENTITY_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"owner": "a different folder"}))
    send(config)
    assert run_id_of(config.output) != first
    assert run_of(config).data.tags["parent_run"] == first
    assert losses(config, first) == [1, 2, 3, 4, 5, 6, 7]


def test_a_second_server_gets_the_whole_record(tmp_path: Path, config: TrainConfig) -> None:
    second = config_in(tmp_path, "run", "second.db")
    send(second)
    run = run_of(second)
    assert losses(second, run.info.run_id) == [1, 2, 3, 4, 5, 6, 7]
    assert run.data.params["seed"] == "7"
    assert run.data.tags["state"] == "running"
    assert len(run.inputs.dataset_inputs) == 1
    models = client_of(second).search_logged_models([run.info.experiment_id])
    assert {model.name: model.tags.get("pruned") for model in models} == {
        "step-00000005": "true",
        "step-00000007": None,
    }
    EventLog(config.output).append("end", {"tags": {"state": "finished"}})
    for each in (config, second):
        send(each)
        assert run_of(each).data.tags["state"] == "finished"


def test_a_state_of_an_older_version_is_read(config: TrainConfig) -> None:
    path = config.output / STATE_NAME
    old: dict[str, object] = {
        "run_id": run_id_of(config.output),
        "sent_notes": 2,
        "checkpoints": 1,
        "system": {},
    }
    path.write_text(json.dumps(old))
    assert run_id_of(config.output) == old["run_id"]
    assert Sender(tracked_run(config)).send_pending() == 0


@pytest.mark.parametrize("planted", ["link", "name", "folder", "fifo"])
def test_no_file_of_the_user_is_sent(tmp_path: Path, config: TrainConfig, planted: str) -> None:
    secret = tmp_path / "secret" / "report.html"
    secret.parent.mkdir()
    secret.write_text("secret")
    reports = config.output / "data_report"
    if planted == "folder":
        reports.symlink_to(secret.parent)
    elif planted == "link":
        reports.mkdir()
        (reports / "report.html").symlink_to(secret)
    elif planted == "fifo":
        reports.mkdir()
        os.mkfifo(reports / "report.html")
    names = ["report.html", "../secret/report.html", str(secret)]
    EventLog(config.output).append("note", {"files": names})
    send(config)
    assert client_of(config).list_artifacts(run_id_of(config.output), "data_report") == []


def test_a_report_that_is_a_link_is_not_kept(tmp_path: Path) -> None:
    config = make_config(tmp_path / "rows", tmp_path / "run")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "linked.html").symlink_to(tmp_path / "secret")
    (tmp_path / "plain.html").write_text("report")
    files = [str(tmp_path / name) for name in ("linked.html", "plain.html")]
    record = RunRecord(config)
    record.start(0, {"files": files})
    record.end("finished")
    kept = list((config.output / "data_report").iterdir())
    assert [(path.name, path.read_text()) for path in kept] == [("report-2.html", "report")]


@pytest.mark.parametrize("damage", ["text", "cut", "folder"])
def test_an_unreadable_database_is_a_message(
    tmp_path: Path, config: TrainConfig, damage: str
) -> None:
    path = tmp_path / "mlflow.db"
    content = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(b"no database " * 100 if damage == "text" else b"\0" * 512 + content[512:])
    EventLog(config.output).metrics(8, {"loss": 8.0})
    with pytest.raises(UserError, match=r"mlflow\.db: (this database|not a database)"):
        send(config)
    shutil.rmtree(path) if damage == "folder" else path.unlink()
    path.write_bytes(content)
    send_rest(tracked_run(config))  # a new process: this one has the old file open
    with contextlib.closing(sqlite3.connect(path)) as database:
        found = database.execute("SELECT value FROM metrics WHERE key = 'loss' ORDER BY step")
        assert [value for (value,) in found] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_odd_characters_in_the_path_of_the_database(tmp_path: Path) -> None:
    folder = tmp_path / "a?b=c#d%41 e"
    config = make_config(folder / "rows", folder / "run")
    claim(config, "rows")
    EventLog(config.output).metrics(1, {"loss": 1.0})
    sender = Sender(recorded_run(config.output))
    sender.send_pending()
    sender.close()
    assert (folder / "mlflow.db").is_file()
    assert not (tmp_path / "a").exists()
    run_id = run_id_of(config.output)
    client = MlflowClient(tracking_uri=tracked_run(config).uri)
    client.log_text(run_id, "text", "file.txt")
    assert list((folder / "mlartifacts").rglob("file.txt"))
    typed = make_config(
        folder / "rows", folder / "run", tracking={"uri": f"sqlite:///{folder}/new.db"}
    )
    with pytest.raises(UserError, match="write \\? as %3F"):
        Sender(tracked_run(typed)).send_pending()


@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP])
def test_a_sender_that_was_killed_or_is_stuck_is_replaced(
    config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    harm: signal.Signals,
) -> None:
    monkeypatch.setattr(logging.getLogger("pipeline"), "propagate", True)
    monkeypatch.setattr(sender_process, "FIRST_DELAY_S", 0.0)
    log = EventLog(config.output)
    process = SenderProcess(config.output, patience_s=1.0)
    first = process.pid
    assert first is not None
    os.kill(first, harm)
    deadline = time.monotonic() + 60
    while process.pid in (first, None) and time.monotonic() < deadline:
        process.watch()
        time.sleep(0.02)
    assert process.pid != first
    log.metrics(8, {"loss": 8.0})
    log.append("end", {"tags": {"state": "finished"}, "status": "FINISHED"})
    assert process.stop(60) == 0
    assert "it is started again" in caplog.text
    assert losses(config, run_id_of(config.output)) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_what_was_not_sent_is_reported_and_sent_later(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("pipeline"), "propagate", True)
    assert not report_unsent(tracked_run(config))
    log = EventLog(config.output)
    log.metrics(8, {"loss": 8.0})
    log.append("end", {"tags": {"state": "finished"}})
    assert report_unsent(tracked_run(config))
    assert "tracking: 2 events not sent to sqlite:" in caplog.text
    send_rest(tracked_run(config))
    assert not report_unsent(tracked_run(config))
    assert run_of(config).data.tags["state"] == "finished"
