"""Signals end in one message, one work folder has one run, and folders may have any name."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from configs import folder_lock
from configs.load import ConfigError, UserError, read_tree
from data_prep.engine.workers import LocalEngineConfig
from data_prep.run import prepare
from tests.data_prep.corpora import config_of, hashes_of, write_corpus

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus and its rows."""
    folder = tmp_path_factory.mktemp("made")
    write_corpus(folder / "raw")
    prepare(config_of(folder))
    return folder


def start(folder: Path) -> "subprocess.Popen[str]":
    """Data preparation with two workers in a process group of its own."""
    path = folder / "config.yaml"
    engine = {"type": "local", "workers": 2}
    path.write_text(config_of(folder, engine=engine, part_mb=0.01).model_dump_json())
    return subprocess.Popen(
        [sys.executable, "-m", "data_prep.run", str(path)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_a_part(folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not list(folder.glob("work/ingest/*.record.json")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_stop_signals_end_in_one_message_and_the_run_resumes(made: Path, tmp_path: Path) -> None:
    """As Ctrl-C in a terminal, which reaches all processes; as kill, which reaches one; twice."""
    (tmp_path / "raw").symlink_to(made / "raw")
    for number, reaches_all, times in (
        (signal.SIGINT, True, 1),
        (signal.SIGTERM, False, 1),
        (signal.SIGINT, True, 2),
    ):
        shutil.rmtree(tmp_path / "work", ignore_errors=True)
        job = start(tmp_path)
        wait_for_a_part(tmp_path)
        with pytest.raises(UserError, match=f"in use by process {job.pid} on "):
            folder_lock.hold(tmp_path / "work")
        children = psutil.Process(job.pid).children(recursive=True)
        for _ in range(times):
            (os.killpg if reaches_all else os.kill)(job.pid, number)
        out, err = job.communicate(timeout=60)
        assert job.returncode == 128 + number
        assert err == ""
        assert out.count("finished parts are kept, and the same command resumes") == 1 or times == 2
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive
    job = start(tmp_path)
    _, err = job.communicate(timeout=100)
    assert (job.returncode, err) == (0, "")
    assert hashes_of(tmp_path / "rows") == hashes_of(made / "rows")


def test_an_error_of_the_user_in_a_worker_arrives_as_one() -> None:
    with (
        LocalEngineConfig(workers=1).build() as engine,
        pytest.raises(ConfigError, match=r"^nowhere\.yaml: no such config file$"),
    ):
        list(engine.run(read_tree, [("nowhere.yaml",)], ["ingest/books-03"]))


@pytest.mark.parametrize(
    "name", ["a b?#%41[x]'\"{e}*", "[ab]", "%2e%2e", "file:", "new\nline\x1b[31m"]
)
def test_folders_may_have_any_name(made: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    shutil.copytree(made / "raw", folder / "raw")
    prepare(config_of(folder))
    assert hashes_of(folder / "rows") == hashes_of(made / "rows")
