"""train.py under torchrun and without a launcher; an error is reported once for all ranks."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import yaml

from configs import command
from configs.load import ConfigError, UserError
from pipeline.launch import shared_error
from pipeline.launch.shared_error import ReportOnce
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import is_done
from pipeline.slurm_job import judge
from tests.forked import ForkedProcess
from tests.gloo import run_ranks
from tests.pipeline.training_run import (
    assert_same_bits,
    final_state,
    make_config,
    make_rows,
    pretrain,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder)
    return folder


def torchrun(script: str, config_path: Path, *before: str) -> subprocess.CompletedProcess[str]:
    """Two ranks of a script under torchrun."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *(script, *before, str(config_path)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=150
    )


def written(rows: Path, folder: Path) -> tuple[TrainConfig, Path]:
    config = make_config(rows, folder / "run", total_rows=5 * 16)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return config, path


def test_torchrun_trains_to_the_same_bits_as_forked_ranks(rows: Path, tmp_path: Path) -> None:
    config, path = written(rows, tmp_path)
    done = torchrun("pipeline/train.py", path)
    assert done.returncode == 0, done.stderr
    assert is_done(config)
    forked = config.model_copy(update={"output": tmp_path / "forked"})
    run_ranks(pretrain, 2, forked)
    assert_same_bits(final_state(config), final_state(forked))


def test_an_error_of_one_rank_is_reported_once_and_not_retried(rows: Path, tmp_path: Path) -> None:
    config, path = written(rows, tmp_path)
    done = torchrun("tests/faulty_rank.py", path, "pipeline/train.py")
    assert done.returncode != 0
    assert done.stderr.count("came out wrong on rank 1") == 1, done.stderr
    assert "error (rank 1): " in done.stderr
    assert "RuntimeError" not in done.stderr  # of the peer, which lost its connection
    verdict = judge(config, 137, "none", 3)  # srun's code: its peers were killed
    assert (verdict.state, verdict.exit_code) == ("failed", 2)
    assert judge(config, 137, "none", 3).exit_code == 75, "the next try starts without it"


def shared(rank: int, folder: Path) -> ReportOnce:
    """The errors of a rank that has claimed the run's folder."""
    errors = ReportOnce(rank)
    errors.share(folder)
    return errors


def test_only_the_first_error_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(UserError, match="first"), shared(3, tmp_path):
        raise UserError("first")
    assert (tmp_path / shared_error.ERROR_NAME).read_text() == "rank 3: first\n"
    for error in (UserError("second"), RuntimeError("connection closed by peer")):
        with pytest.raises(SystemExit) as stop, shared(1, tmp_path):
            raise error
        assert stop.value.code == 2
    with pytest.raises(RuntimeError, match="a real one"), shared(0, tmp_path):  # clears it
        raise RuntimeError("a real one")
    with pytest.raises(UserError), shared(0, tmp_path / "absent"):
        raise UserError("where nothing can be written")


@pytest.mark.parametrize(
    ("rank", "error", "waited_s"),
    [
        (0, ConfigError("bad"), 0),
        (1, ConfigError("bad"), shared_error.SINGLE_RANK_WAIT_S),
        (0, UserError("bad"), 0),
        (1, UserError("bad"), shared_error.SINGLE_RANK_WAIT_S),
        (1, OSError("disk full"), shared_error.SINGLE_RANK_WAIT_S),
        (1, RuntimeError("a fault"), 0),
    ],
    ids=str,
)
def test_before_the_folder_is_known_rank_0_reports(
    monkeypatch: pytest.MonkeyPatch, rank: int, error: Exception, waited_s: float
) -> None:
    waits = [0.0]
    monkeypatch.setattr(time, "sleep", waits.append)
    with pytest.raises(type(error)), ReportOnce(rank):
        raise error
    assert sum(waits) == waited_s


def find_error(rank: int, folder: Path | None, seconds: float) -> None:
    """A rank that reaches an error after `seconds`."""

    def main() -> None:
        with ReportOnce(rank) as errors:
            if folder is not None:
                errors.share(folder)
            time.sleep(seconds)
            raise ConfigError("a wrong key")

    os.environ["RANK"] = str(rank)
    command.run(main)


@pytest.mark.parametrize("is_folder_known", [False, True])
@pytest.mark.parametrize("slow_rank", [0, 1])
def test_a_launcher_that_ends_all_ranks_with_the_first_does_not_swallow_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_folder_known: bool, slow_rank: int
) -> None:
    if is_folder_known:
        real = shared_error._leave_file

        def leave_file_slowly(folder: Path, text: str) -> bool:
            is_first = real(folder, text)
            time.sleep(0.5 if is_first else 0)  # between the file and the message
            return is_first

        monkeypatch.setattr(shared_error, "_leave_file", leave_file_slowly)
    folder = tmp_path if is_folder_known else None
    ranks = [
        ForkedProcess(partial(find_error, rank, folder, 0.5 if rank == slow_rank else 0.1))
        for rank in (0, 1)
    ]
    first = wait_for_first()
    for rank in ranks:
        if rank.pid != first:
            os.kill(rank.pid, signal.SIGTERM)
    messages = [rank.wait().stderr for rank in ranks]
    assert sum("a wrong key" in message for message in messages) == 1, messages


def wait_for_first() -> int:
    """The pid of the next child that ends; it can still be waited for."""
    ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    return ended.si_pid


def test_a_rank_reports_an_error_that_no_other_rank_finds(rows: Path, tmp_path: Path) -> None:
    _, path = written(rows, tmp_path)
    place = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
    environment = {**os.environ, **place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for override, message in (
        ("data.path=nowhere", "error (rank 1): nowhere/manifest.json: no such file"),
        ("seed=minus", "error (rank 1): "),
    ):
        done = subprocess.run(
            [sys.executable, "pipeline/train.py", str(path), override],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2
        assert message in done.stderr
