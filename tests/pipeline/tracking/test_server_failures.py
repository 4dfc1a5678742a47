"""A tracking server that is down, slow or failing: no step is lost, sent twice or waited for."""

import http.client
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.launch.environment import free_port
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import claim
from pipeline.tracking import sender_process
from pipeline.tracking.event_log import EventLog
from pipeline.tracking.sender import Sender
from pipeline.tracking.sender_process import SenderProcess
from pipeline.tracking.sent import run_id_of
from pipeline.tracking.tracked_run import tracked_run
from tests.pipeline.training_run import make_config


class Proxy(http.server.ThreadingHTTPServer):
    """Forwards requests to a real server, or fails.

    `mode` is up, error, slow, no_answer, or "held": nothing is answered as long as it is set.
    """

    daemon_threads = True
    mode = "up"

    def __init__(self, backend_port: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.backend_port = backend_port
        self.num_failed = 0

    @property
    def uri(self) -> str:
        """The address on which it listens."""
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    server: Proxy

    def do_GET(self) -> None:
        mode = self.server.mode
        if mode != "up":
            self.server.num_failed += 1
        if mode == "error":
            self.send_error(500)
            return
        if mode == "held":
            while self.server.mode == mode:
                time.sleep(0.05)
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if mode == "slow":
            time.sleep(2.0)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        backend = http.client.HTTPConnection("127.0.0.1", self.server.backend_port)
        headers = {k: v for k, v in self.headers.items() if k != "Host"}
        backend.request(self.command, self.path, body, headers)
        answer = backend.getresponse()
        content = answer.read()
        if mode == "no_answer":  # the server did the work, its answer never arrives
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.getheader("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_PATCH = do_DELETE = do_PUT = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Does nothing."""


@pytest.fixture(scope="module")
def backend_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A real MLflow server."""
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    options = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command, *options], cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), 1):
                    break
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.2)
        yield port
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)


@pytest.fixture
def proxy(backend_port: int) -> Iterator[Proxy]:
    server = Proxy(backend_port)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def config(proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """A config whose run is tracked through the proxy."""
    for name, value in sender_process.HTTP_SETTINGS.items():
        monkeypatch.setenv(name, value)
    config = make_config(tmp_path / "rows", tmp_path / "run", tracking={"uri": proxy.uri})
    claim(config, "rows")
    return config


def steps_at_server(config: TrainConfig, proxy: Proxy) -> list[int]:
    proxy.mode = "up"
    client = MlflowClient(tracking_uri=proxy.uri)
    history = client.get_metric_history(run_id_of(config.output), "loss")
    return [metric.step for metric in history]


@pytest.mark.parametrize("mode", ["error", "no_answer", "slow"])
def test_a_failure_in_the_middle_loses_and_repeats_nothing(
    config: TrainConfig, proxy: Proxy, mode: str
) -> None:
    log = EventLog(config.output)
    sender = Sender(tracked_run(config))
    for step in range(1, 61):
        log.metrics(step, {"loss": float(step), "accuracy": 0.5})
        proxy.mode = mode if 20 <= step < 40 else "up"
        if step % 10 == 0:
            try:
                sender.send_pending()
            except Exception:
                assert proxy.mode != "up"
    assert proxy.num_failed > 0
    assert steps_at_server(config, proxy) == list(range(1, 61))


def test_a_server_that_starts_late_gets_everything_in_order(
    config: TrainConfig, proxy: Proxy
) -> None:
    proxy.mode = "error"
    log = EventLog(config.output)
    process = SenderProcess(config.output)
    for step in range(1, 201):
        log.metrics(step, {"loss": float(step)})
    deadline = time.monotonic() + 60
    while proxy.num_failed == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    proxy.mode = "up"
    log.append("end", {"tags": {"state": "finished"}, "status": "FINISHED"})
    process.stop(timeout_s=60)
    Sender(
        tracked_run(config)
    ).send_pending()  # what `sync` does, if the process could not send all
    assert steps_at_server(config, proxy) == list(range(1, 201))


def test_training_waits_for_no_answer_and_its_end_a_limited_time(
    config: TrainConfig, proxy: Proxy
) -> None:
    log = EventLog(config.output)
    log.metrics(1, {"loss": 1.0})
    proxy.mode = "held"
    process = SenderProcess(config.output)
    deadline = time.monotonic() + 100
    while proxy.num_failed == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    for step in range(2, 201):  # while the sender process waits for its answer
        log.metrics(step, {"loss": float(step)})
    code = process.stop(timeout_s=1.0)
    assert code == -signal.SIGKILL, "it would have waited for the answer"
    assert proxy.mode == "held"
    proxy.mode = "up"
    Sender(tracked_run(config)).send_pending()
    assert steps_at_server(config, proxy) == list(range(1, 201))


def test_repeated_steps_are_not_sent_twice_to_a_server_and_a_tag_names_them(
    config: TrainConfig, proxy: Proxy
) -> None:
    log = EventLog(config.output)
    for step in range(1, 6):
        log.metrics(step, {"loss": float(step)})
    Sender(tracked_run(config)).send_pending()
    log.discard_after(3)
    log.append("start", {"resumed_from": 3})
    for step in range(4, 8):
        log.metrics(step, {"loss": 10.0 * step})
    Sender(tracked_run(config)).send_pending()
    assert steps_at_server(config, proxy) == list(range(1, 8))
    tags = MlflowClient(tracking_uri=proxy.uri).get_run(run_id_of(config.output)).data.tags
    assert tags["replaced_after.3"] == "steps 4 to 5"
