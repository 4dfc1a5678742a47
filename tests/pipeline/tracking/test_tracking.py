"""One MLflow run a pretraining, nothing lost or doubled, whatever the server does."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.tracking import sender
from pipeline.tracking.event_log import RunLog, read_events
from pipeline.tracking.follower import start_follower, stop_follower
from pipeline.tracking.sender import Sender, run_id_of
from tests.pipeline.training_run import make_config

ROOT = Path(__file__).parents[3]


@pytest.fixture
def config(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    return make_config(tmp_path / "rows", tmp_path / "run", tracking={"uri": uri})


def losses_in_mlflow(config) -> list[tuple[int, float]]:
    client = MlflowClient(tracking_uri=config.tracking.uri)
    history = client.get_metric_history(run_id_of(config.output), "loss")
    return [(metric.step, metric.value) for metric in history]


def test_a_resumed_run_is_one_run_without_gap_or_doubled_step(config):
    log = RunLog(config.output)
    log.append("begin", {"params": {"seed": 7}, "tags": {"state": "running"}})
    for step in range(1, 8):
        log.metrics(step, {"loss": float(step)})
    assert Sender(config).send_pending() == 9
    first_run = run_id_of(config.output)

    again = RunLog(config.output)  # a restart from the checkpoint of step 5
    again.forget_after(5)
    again.append("begin", {"params": {"seed": 7}, "tags": {"state": "running"}})
    for step in range(6, 11):
        again.metrics(step, {"loss": float(step)})
    again.append("end", {"tags": {"state": "finished"}, "status": "FINISHED"})
    Sender(config).send_pending()

    assert run_id_of(config.output) == first_run
    assert losses_in_mlflow(config) == [(step, float(step)) for step in range(1, 11)]
    run = MlflowClient(tracking_uri=config.tracking.uri).get_run(first_run)
    assert run.data.params["seed"] == "7"
    assert run.data.tags["state"] == "finished"
    assert run.info.status == "FINISHED"


def test_steps_that_are_taken_again_replace_what_was_sent_of_them(config):
    log = RunLog(config.output)
    log.append("begin", {"behind_step": 0})
    for step in range(1, 8):
        log.metrics(step, {"loss": float(step), "once": 1.0} if step == 7 else {"loss": step})
    Sender(config).send_pending()
    log.forget_after(4)  # going back to the checkpoint of step 4, other rows follow
    log.append("begin", {"behind_step": 4})
    log.metrics(5, {"loss": 50.0})
    log.metrics(6, {"loss": 60.0})
    Sender(config).send_pending()
    expected = [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 50.0), (6, 60.0)]
    assert losses_in_mlflow(config) == expected
    run = MlflowClient(tracking_uri=config.tracking.uri).get_run(run_id_of(config.output))
    assert run.data.metrics == {"loss": 60.0}, "the latest values are those of step 6"
    (config.output / sender.STATE_NAME).unlink()
    Sender(config).send_pending()
    assert losses_in_mlflow(config) == expected


def test_two_senders_at_once_send_each_event_once(config):
    log = RunLog(config.output)
    log.metrics(1, {"loss": 1.0})
    first = Sender(config)
    first.send_pending()
    log.metrics(2, {"loss": 2.0})
    with pytest.raises(sender.AnotherSender, match="another process is sending this record"):
        Sender(config).send_pending()
    first.send_pending()
    first.close()
    log.metrics(3, {"loss": 3.0})
    Sender(config).send_pending()
    assert losses_in_mlflow(config) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_a_sync_beside_the_follower_says_who_sends(tmp_path):
    config, arguments = written_config(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")
    log = RunLog(config.output)
    log.metrics(1, {"loss": 1.0})
    holder = Sender(config)
    holder.send_pending()
    command = [sys.executable, "-m", "pipeline.tracking", "sync", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "another process is sending this record; nothing is lost" in done.stderr


def test_a_sender_that_lost_its_notes_finds_its_run_again(config):
    log = RunLog(config.output)
    log.metrics(1, {"loss": 1.0})
    Sender(config).send_pending()
    first_run = run_id_of(config.output)
    (config.output / sender.STATE_NAME).unlink()
    log.metrics(2, {"loss": 2.0})
    Sender(config).send_pending()
    assert run_id_of(config.output) == first_run
    assert losses_in_mlflow(config) == [(1, 1.0), (2, 2.0)]


def test_a_torn_last_line_is_not_read_and_is_dropped_on_restart(config):
    log = RunLog(config.output)
    log.metrics(1, {"loss": 1.0})
    path = config.output / "events.jsonl"
    with path.open("ab") as stream:
        stream.write(b'{"kind": "metrics", "step": 2, "val')
    assert [event["kind"] for event, _ in read_events(path)] == ["created", "metrics"]
    log.forget_after(1)
    log.metrics(2, {"loss": 2.0})
    assert [event.get("step") for event, _ in read_events(path)] == [None, 1, 2]


def test_the_follower_sends_while_training_and_ends_with_it(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    config, arguments = written_config(tmp_path, uri)
    log = RunLog(config.output)
    follower = start_follower(arguments)
    for step in range(1, 4):
        log.metrics(step, {"loss": float(step)})
    deadline = time.monotonic() + 60
    while run_id_of(config.output) is None and time.monotonic() < deadline:
        time.sleep(0.1)
    log.metrics(4, {"loss": 4.0})
    stop_follower(follower, timeout_s=60)
    assert follower.returncode == 0
    assert losses_in_mlflow(config) == [(step, float(step)) for step in range(1, 5)]


def test_a_server_that_is_down_is_said_once_and_everything_is_sent_later(tmp_path):
    config, arguments = written_config(tmp_path, "http://127.0.0.1:9")
    environment = {**os.environ, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    log = RunLog(config.output)
    log.metrics(1, {"loss": 1.0})
    command = [sys.executable, str(ROOT / "pipeline" / "tracking.py"), "follow", *arguments]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0
    assert "127.0.0.1:9 cannot be reached" in done.stderr
    assert str(config.output / "events.jsonl") in done.stderr
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    command = [sys.executable, "-m", "pipeline.tracking", "sync", *arguments, f"tracking.uri={uri}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "3 events sent" in done.stdout  # with the one that says that nobody ended the run
    reachable = make_config(tmp_path / "rows", config.output, tracking={"uri": uri})
    assert losses_in_mlflow(reachable) == [(1, 1.0)]


def written_config(folder: Path, uri: str):
    """A config and the command-line arguments that load the same."""
    import yaml

    config = make_config(folder / "rows", folder / "run", tracking={"uri": uri})
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return config, [str(path)]
