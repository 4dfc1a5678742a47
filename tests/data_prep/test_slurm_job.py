"""Whether a job that reached its time limit starts again, and what a later try does not repeat."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.job_state import JobState, finished_parts, has_restarted, note_restart, read_state
from data_prep.slurm_job import EXIT_FAILED, EXIT_REQUEUE, next_step
from tests.data_prep.corpora import config_of, hashes_of, write_corpus

ROOT = Path(__file__).parents[2]


def finish(work: Path, stage: str, number: int) -> None:
    (work / stage).mkdir(parents=True, exist_ok=True)
    (work / stage / f"a-{number}.record.json").write_text("{}")


def test_a_job_starts_again_while_its_tries_finish_parts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(tmp_path)
    for number in range(5):
        finish(config.work, "ingest" if number < 3 else "keys", number)
        assert next_step(config, "7", limit=2) == EXIT_REQUEUE
    assert finished_parts(config.work) == 5
    assert next_step(config, "7", limit=2) == EXIT_REQUEUE  # the first in vain
    assert read_state(config.work, "7") == JobState("7", finished=5, tries=1)
    finish(config.work, "keys", 9)
    assert next_step(config, "7", limit=2) == EXIT_REQUEUE
    assert next_step(config, "7", limit=2) == EXIT_REQUEUE
    assert next_step(config, "7", limit=2) == EXIT_FAILED
    assert "2 tries in a row reached the time limit and finished no part" in caplog.text
    assert next_step(config, "8", limit=2) == EXIT_REQUEUE  # a new job counts from the start


def test_a_job_that_never_finishes_a_part_ends_after_as_many_tries(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    assert next_step(config, "7", limit=3) == EXIT_REQUEUE
    assert next_step(config, "7", limit=3) == EXIT_REQUEUE
    assert next_step(config, "7", limit=3) == EXIT_FAILED


def test_parts_that_were_removed_do_not_count_as_finished(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    for number in range(3):
        finish(config.work, "ingest", number)
    assert next_step(config, "7", limit=1) == EXIT_REQUEUE
    (config.work / "ingest/a-2.record.json").unlink()
    assert next_step(config, "7", limit=1) == EXIT_FAILED


def test_only_the_same_job_in_a_later_try_has_restarted(tmp_path: Path) -> None:
    finish(tmp_path, "ingest", 0)
    first = {"SLURM_JOB_ID": "7"}
    note_restart(tmp_path, "keys", first)
    assert read_state(tmp_path, "7") == JobState("7", finished=1, restarted_from="keys")
    later = {**first, "SLURM_RESTART_COUNT": "1"}
    assert has_restarted(tmp_path, "keys", later)
    assert not has_restarted(tmp_path, "ingest", later)
    assert not has_restarted(tmp_path, "keys", first)  # a second command in one allocation
    assert not has_restarted(tmp_path, "keys", {**later, "SLURM_JOB_ID": "8"})
    assert not has_restarted(tmp_path, "keys", {})
    note_restart(tmp_path, "verdicts", {})
    assert read_state(tmp_path, "7").restarted_from == "keys"


def call(module: str, path: Path, *words: str, **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", module, str(path), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "SLURM_JOB_ID": "7", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.timeout(300)
def test_a_requeued_job_removes_work_only_in_its_first_try(tmp_path: Path) -> None:
    """The command line is the same in every try, `--restart-from` included."""
    write_corpus(tmp_path / "raw")
    path = tmp_path / "config.yaml"
    path.write_text(config_of(tmp_path, part_mb=0.01).model_dump_json())
    words = ("--restart-from", "ingest")
    first = call("data_prep.run", path, *words)
    assert first.stdout is not None
    for line in first.stdout:
        if line.startswith("ingest: ") or " ingest: " in line:
            break
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=100)
    assert first.returncode == 128 + signal.SIGTERM
    records = {p: p.stat().st_mtime_ns for p in (tmp_path / "work").rglob("*.record.json")}
    assert records
    decides = call("data_prep.slurm_job", path, *words, "--job-id", "7", "--limit", "3")
    assert "the next try continues" in decides.communicate(timeout=100)[0]
    assert decides.returncode == EXIT_REQUEUE
    second = call("data_prep.run", path, *words, SLURM_RESTART_COUNT="1")
    out, _ = second.communicate(timeout=200)
    assert second.returncode == 0, out
    assert {p: p.stat().st_mtime_ns for p in records} == records
    expected = hashes_of(tmp_path / "rows")
    third = call("data_prep.run", path, *words)  # by hand, in the same allocation
    out, _ = third.communicate(timeout=200)
    assert third.returncode == 0, out
    assert all(p.stat().st_mtime_ns > at for p, at in records.items())
    assert hashes_of(tmp_path / "rows") == expected
