"""One MLflow run per pretraining run; every step is sent exactly once."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import claim
from pipeline.tracking import sender
from pipeline.tracking.event_log import EventLog, read_events
from pipeline.tracking.sender import Sender
from pipeline.tracking.sender_process import SenderProcess
from pipeline.tracking.sent import STATE_NAME, run_id_of
from pipeline.tracking.tracked_run import tracked_run
from tests.pipeline.training_run import make_config

ROOT = Path(__file__).parents[3]
SECRET = "hunter2-very-secret"


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    return make_config(tmp_path / "rows", tmp_path / "run", tracking={"uri": uri})


def losses_in_mlflow(config: TrainConfig) -> list[tuple[int, float]]:
    client = MlflowClient(tracking_uri=config.tracking.uri)
    history = client.get_metric_history(run_id_of(config.output), "loss")
    return [(metric.step, metric.value) for metric in history]


def test_a_resumed_run_is_one_run_without_missing_or_repeated_steps(config: TrainConfig) -> None:
    log = EventLog(config.output)
    log.append("start", {"params": {"seed": 7}, "tags": {"state": "running"}})
    for step in range(1, 8):
        log.metrics(step, {"loss": float(step)})
    assert Sender(tracked_run(config)).send_pending() == 9
    first_run = run_id_of(config.output)

    resumed = EventLog(config.output)  # a restart from the checkpoint of step 5
    resumed.discard_after(5)
    resumed.append("start", {"params": {"seed": 7}, "tags": {"state": "running"}})
    for step in range(6, 11):
        resumed.metrics(step, {"loss": float(step)})
    resumed.append("end", {"tags": {"state": "finished"}, "status": "FINISHED"})
    Sender(tracked_run(config)).send_pending()

    assert run_id_of(config.output) == first_run
    assert losses_in_mlflow(config) == [(step, float(step)) for step in range(1, 11)]
    run = MlflowClient(tracking_uri=config.tracking.uri).get_run(first_run)
    assert run.data.params["seed"] == "7"
    assert run.data.tags["state"] == "finished"
    assert run.info.status == "FINISHED"


def test_repeated_steps_replace_the_metrics_that_were_sent(config: TrainConfig) -> None:
    log = EventLog(config.output)
    log.append("start", {"resumed_from": 0})
    for step in range(1, 8):
        log.metrics(step, {"loss": float(step), "once": 1.0} if step == 7 else {"loss": step})
    Sender(tracked_run(config)).send_pending()
    log.discard_after(4)  # a rollback to the checkpoint of step 4; other rows follow
    log.append("start", {"resumed_from": 4})
    log.metrics(5, {"loss": 50.0})
    log.metrics(6, {"loss": 60.0})
    Sender(tracked_run(config)).send_pending()
    expected = [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 50.0), (6, 60.0)]
    assert losses_in_mlflow(config) == expected
    run = MlflowClient(tracking_uri=config.tracking.uri).get_run(run_id_of(config.output))
    assert run.data.metrics == {"loss": 60.0}, "the latest values are those of step 6"
    (config.output / STATE_NAME).unlink()
    Sender(tracked_run(config)).send_pending()
    assert losses_in_mlflow(config) == expected


def test_two_senders_at_once_send_each_event_once(config: TrainConfig) -> None:
    log = EventLog(config.output)
    log.metrics(1, {"loss": 1.0})
    first = Sender(tracked_run(config))
    first.send_pending()
    log.metrics(2, {"loss": 2.0})
    with pytest.raises(sender.AnotherSender, match="another process is sending the events"):
        Sender(tracked_run(config)).send_pending()
    first.send_pending()
    first.close()
    log.metrics(3, {"loss": 3.0})
    Sender(tracked_run(config)).send_pending()
    assert losses_in_mlflow(config) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_a_sync_beside_a_running_sender_reports_it(tmp_path: Path) -> None:
    config, arguments = written_config(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")
    log = EventLog(config.output)
    log.metrics(1, {"loss": 1.0})
    holder = Sender(tracked_run(config))
    holder.send_pending()
    command = [sys.executable, "-m", "pipeline.tracking", "sync", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "another process is sending the events; nothing is lost" in done.stderr


def test_a_sender_that_lost_its_state_finds_its_run(config: TrainConfig) -> None:
    log = EventLog(config.output)
    log.metrics(1, {"loss": 1.0})
    Sender(tracked_run(config)).send_pending()
    first_run = run_id_of(config.output)
    (config.output / STATE_NAME).unlink()
    log.metrics(2, {"loss": 2.0})
    Sender(tracked_run(config)).send_pending()
    assert run_id_of(config.output) == first_run
    assert losses_in_mlflow(config) == [(1, 1.0), (2, 2.0)]


def test_an_incomplete_last_line_is_skipped_and_removed_on_restart(config: TrainConfig) -> None:
    log = EventLog(config.output)
    log.metrics(1, {"loss": 1.0})
    path = config.output / "events.jsonl"
    with path.open("ab") as stream:
        stream.write(b'{"kind": "metrics", "step": 2, "val')
    assert [event["kind"] for event, _ in read_events(path)] == ["created", "metrics"]
    log.discard_after(1)
    log.metrics(2, {"loss": 2.0})
    assert [event.get("step") for event, _ in read_events(path)] == [None, 1, 2]


def test_the_sender_process_sends_during_training_and_ends_with_it(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    config, _ = written_config(tmp_path, uri)
    log = EventLog(config.output)
    process = SenderProcess(config.output)
    for step in range(1, 4):
        log.metrics(step, {"loss": float(step)})
    deadline = time.monotonic() + 60
    while run_id_of(config.output) is None and time.monotonic() < deadline:
        time.sleep(0.1)
    log.metrics(4, {"loss": 4.0})
    assert process.stop(timeout_s=60) == 0
    assert losses_in_mlflow(config) == [(step, float(step)) for step in range(1, 5)]


def test_a_server_that_is_down_is_logged_and_all_is_sent_later(tmp_path: Path) -> None:
    config, arguments = written_config(tmp_path, "http://127.0.0.1:9")
    environment = {**os.environ, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    log = EventLog(config.output)
    log.metrics(1, {"loss": 1.0})
    command = [sys.executable, str(ROOT / "pipeline/tracking/__main__.py"), "follow", *arguments]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0
    num_warnings = done.stdout.count("WARNING tracking: http://127.0.0.1:9 cannot be reached")
    assert num_warnings == 2, "once when it happened, once at the end"
    assert str(config.output / "events.jsonl") in done.stdout
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    command = [sys.executable, "-m", "pipeline.tracking", "sync", *arguments, f"tracking.uri={uri}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "3 events sent" in done.stdout  # with the one that records the failure
    reachable = make_config(tmp_path / "rows", config.output, tracking={"uri": uri})
    assert losses_in_mlflow(reachable) == [(1, 1.0)]


def test_records_with_the_old_names_of_events_are_read(config: TrainConfig) -> None:
    EventLog(config.output)
    with (config.output / "events.jsonl").open("a") as stream:
        for step in (1, 2, 3):
            values = {"loss": float(step)}
            event = {"kind": "metrics", "time_ms": 0, "step": step, "values": values}
            stream.write(json.dumps(event) + "\n")
    Sender(tracked_run(config)).send_pending()
    EventLog(config.output).discard_after(1)
    with (config.output / "events.jsonl").open("a") as stream:
        stream.write(json.dumps({"kind": "begin", "time_ms": 0, "behind_step": 1}) + "\n")
    EventLog(config.output).metrics(2, {"loss": 20.0})
    Sender(tracked_run(config)).send_pending()
    assert losses_in_mlflow(config) == [(1, 1.0), (2, 20.0)]
    kinds = [event["kind"] for event, _ in read_events(config.output / "events.jsonl")]
    assert kinds == ["created", "metrics", "start", "metrics"]


def test_no_credential_reaches_the_event_log_or_mlflow(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S3_SECRET_KEY", SECRET)
    log = EventLog(config.output)
    address = f"https://me:{SECRET}-1@host/rows?token={SECRET}-2&part=3"
    content = {
        "params": {"data.path": address, "comment": f"uses {SECRET}"},
        "tags": {"note": address, "options": {"password": f"{SECRET}-3"}},
        "datasets": [
            {
                "name": "rows",
                "digest": "0123",
                "source": json.dumps({"uri": address}),
                "profile": "{}",
                "context": "pretraining",
            }
        ],
        "status": "RUNNING",
    }
    log.append("start", content)
    with (config.output / "events.jsonl").open("a") as stream:  # as older versions wrote it
        stream.write(json.dumps({"kind": "note", "time_ms": 0, "tags": {"old": address}}) + "\n")
    Sender(tracked_run(config)).send_pending()
    first_lines = (config.output / "events.jsonl").read_text().splitlines()[:2]
    assert SECRET not in "\n".join(first_lines)
    assert config.tracking.uri is not None
    database = sqlite3.connect(config.tracking.uri.removeprefix("sqlite:///"))
    stored = "\n".join(database.iterdump())
    assert SECRET not in stored
    assert stored.count("https://***@host/rows?token=***&part=3") >= 4


def test_errors_of_sync_contain_no_credentials(tmp_path: Path) -> None:
    config, arguments = written_config(tmp_path, "http://127.0.0.1:9/")
    EventLog(config.output)
    command = [sys.executable, "-m", "pipeline.tracking", "sync", *arguments]
    environment = {
        **os.environ,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_TRACKING_PASSWORD": SECRET,
        "MLFLOW_TRACKING_USERNAME": "me",
    }
    override = f"tracking.uri=http://127.0.0.1:9/{SECRET}"
    done = subprocess.run(
        [*command, override], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 2
    assert "error: http://127.0.0.1:9/*** cannot be reached" in done.stderr
    assert SECRET not in done.stdout + done.stderr


def written_config(folder: Path, uri: str) -> tuple[TrainConfig, list[str]]:
    """A config and the command-line arguments that load the same config."""
    config = make_config(folder / "rows", folder / "run", tracking={"uri": uri})
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    claim(config, "rows")
    return config, [str(path)]
