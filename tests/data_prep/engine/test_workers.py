"""Killed workers: under a scheduler nothing is lost, and a part that kills them is named."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import dask
import psutil
import pytest
from distributed import Client
from distributed.security import Security

from configs.load import UserError
from data_prep.engine.workers import (
    CERTIFICATE_FILE,
    KEY_FILE,
    DaskEngine,
    LocalEngineConfig,
    SchedulerEngineConfig,
)
from data_prep.run import prepare
from data_prep.scheduler_key import write_scheduler_key
from tests.data_prep.corpora import config_of, hashes_of, write_corpus

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
GATED_PARTS = """
import os, time
from data_prep.engine import execution

def gate_of(run_part):
    calls = []

    def gated(*arguments):
        calls.append(arguments)
        while len(calls) > 2 and not os.path.exists("gate"):
            time.sleep(0.01)
        return run_part(*arguments)

    return gated

if execution.run_part.__name__ != "gated":  # dask runs this file twice
    execution.run_part = gate_of(execution.run_part)
"""
"""Preloaded by dask's workers: after two parts, a process waits for the file "gate"."""


@pytest.mark.timeout(300)
def test_parts_run_under_a_scheduler_and_a_killed_worker_changes_nothing(tmp_path: Path) -> None:
    """As in a Slurm job: the scheduler and a worker with its nanny are started separately."""
    write_corpus(tmp_path / "raw")
    prepare(config_of(tmp_path))
    expected = hashes_of(tmp_path / "rows")
    for name in ("work", "rows"):
        subprocess.run(["rm", "-r", str(tmp_path / name)], check=True)
    write_scheduler_key(tmp_path / "dask")
    file = tmp_path / "dask/scheduler.json"
    scheduler = start_dask("scheduler", "--port", "0", file=file, folder=tmp_path)
    (tmp_path / "gated_parts.py").write_text(GATED_PARTS)
    options = ("--nthreads", "1", "--nworkers", "1", "--preload", "gated_parts.py")
    worker = start_dask("worker", *options, file=file, folder=tmp_path)
    try:
        path = tmp_path / "config.yaml"
        path.write_text(config_of(tmp_path, part_mb=0.01).model_dump_json())
        command = [sys.executable, "-m", "data_prep.run", str(path), "--scheduler-file", str(file)]
        job = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        ingested = tmp_path / "work/ingest"
        wait_until(lambda: len(list(ingested.glob("*.record.json"))) == 2)
        killed = worker_processes_of(worker.pid)
        for process in killed:
            os.kill(process, signal.SIGKILL)
        (tmp_path / "gate").touch()
        assert job.wait(100) == 0
        assert killed
        assert not set(killed) & set(worker_processes_of(worker.pid))
        assert hashes_of(tmp_path / "rows") == expected
        assert_key_is_demanded(json.loads(file.read_text())["address"])
        write_scheduler_key(tmp_path / "stranger")
        engine = SchedulerEngineConfig(
            type="scheduler",
            scheduler_file=str(file),
            tls_folder=str(tmp_path / "stranger"),
            wait_s=5,
        )
        with engine.build() as stranger, pytest.raises(UserError, match="and this key"):
            list(stranger.run(abs, [(-1,)], ["one"]))
    finally:
        for started in (worker, scheduler):
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()


def assert_key_is_demanded(address: str) -> None:
    """Neither a client that speaks plainly nor one with a key of its own connects."""
    host_and_port = address.removeprefix("tls://")
    assert host_and_port != address
    with pytest.raises(OSError, match=r"."):
        Client(f"tcp://{host_and_port}", timeout=5)
    with pytest.raises(OSError, match="TLS certificate does not match"):
        Client(address, security=Security.temporary(), timeout=5)


def test_the_workers_of_a_machine_demand_a_key_and_listen_on_loopback_only() -> None:
    with LocalEngineConfig(workers=1).build() as engine:
        assert isinstance(engine, DaskEngine)
        assert list(engine.run(abs, [(-1,)], ["one"])) == [1]
        client = engine._client
        assert_key_is_demanded(client.cluster.scheduler_address)
        (worker,) = client.scheduler_info()["workers"]
        assert_key_is_demanded(worker)
        me = psutil.Process()
        listening = [
            connection.laddr.ip
            for process in (me, *me.children(recursive=True))
            for connection in process.net_connections()
            if connection.status == psutil.CONN_LISTEN
        ]
        assert len(listening) >= 4
        assert set(listening) == {"127.0.0.1"}


def test_only_the_owner_reads_a_key(tmp_path: Path) -> None:
    folder = tmp_path / "dask"
    write_scheduler_key(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert sorted(path.name for path in folder.iterdir()) == ["cert.pem", "key.pem"]
    with pytest.raises(UserError, match="exists already"):
        write_scheduler_key(folder)
    engine = SchedulerEngineConfig(type="scheduler", scheduler_file=str(tmp_path / "other.json"))
    with engine.build() as built, pytest.raises(UserError, match=r"scheduler_key FOLDER"):
        list(built.run(abs, [(-1,)], ["one"]))


def start_dask(role: str, *options: str, file: Path, folder: Path) -> "subprocess.Popen[bytes]":
    """A dask scheduler or worker in a process group of its own, which meet through `file`."""
    certificate, key = (str(file.parent / name) for name in (CERTIFICATE_FILE, KEY_FILE))
    command = [sys.executable, "-m", "dask", role, "--scheduler-file", str(file), "--no-dashboard"]
    command += ["--tls-ca-file", certificate, "--tls-cert", certificate, "--tls-key", key]
    command += ["--protocol", "tls://"]
    return subprocess.Popen(
        [*command, *options],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_until(holds: Callable[[], bool], seconds: float = 100.0) -> None:
    """Returns as soon as `holds()`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.02)


def worker_processes_of(pid: int) -> list[int]:
    """The processes in which the nanny of a dask worker runs tasks."""
    children = [
        int(child)
        for task in Path(f"/proc/{pid}/task").glob("*")
        for child in (task / "children").read_text().split()
    ]
    return [c for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]


def kill_once(mark: str) -> int:
    """Kills its process, unless the file `mark` says that it has."""
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 1


def test_the_place_of_a_dead_worker_is_never_given_up(tmp_path: Path) -> None:
    """Dask would, where no process is in it 15 s after a death: the run would wait for ever."""
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "10ms"}),
        LocalEngineConfig(workers=1).build() as engine,
    ):
        assert list(engine.run(kill_once, [(str(tmp_path / "mark"),)], ["part"])) == [1]


def test_a_part_that_kills_its_workers_is_named() -> None:
    with (
        LocalEngineConfig(workers=1).build() as engine,
        pytest.raises(UserError, match=r"^ingest/books-03: this part killed its worker process 4"),
    ):
        list(engine.run(os._exit, [(1,)], ["ingest/books-03"]))


def kill_a_starting_worker() -> None:
    """Kills the first process that multiprocessing spawns for a worker, as soon as it exists."""
    me, deadline = psutil.Process(), time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in me.children():
            if "spawn_main" in " ".join(child.cmdline()):
                child.kill()
                return
        time.sleep(0.005)


def test_a_worker_killed_while_it_starts_is_started_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    killer = threading.Thread(target=kill_a_starting_worker)
    killer.start()
    with LocalEngineConfig(workers=1).build() as engine:
        assert list(engine.run(abs, [(-1,)], ["one"])) == [1]
    killer.join()
    assert "did not start (attempt 1 of 3)" in caplog.text


def test_workers_that_never_start_are_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr("distributed.LocalCluster", fail)
    with (
        LocalEngineConfig(workers=1).build() as engine,
        pytest.raises(UserError, match=r"^the worker processes did not start in 3 .*Nanny failed"),
    ):
        list(engine.run(abs, [(-1,)], ["one"]))
