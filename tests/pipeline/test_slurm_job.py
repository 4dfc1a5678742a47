"""Requeueing after srun ended, the watchdog, and the health check of a node."""

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from pipeline import slurm_job
from pipeline.node_check import (
    accelerator_problems,
    clock_problems,
    folder_problems,
    memory_problems,
)
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import checkpoints_folder, mark_done
from pipeline.slurm_job import EXIT_REQUEUE, judge, record_state, wait_for_silence
from pipeline.tracking.event_log import EventLog, read_events
from tests.pipeline.training_run import make_config


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return make_config(tmp_path / "rows", tmp_path / "run")


def put_checkpoint(config: TrainConfig, step: int) -> None:
    folder = checkpoints_folder(config) / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")


def test_a_finished_run_ends_the_job(config: TrainConfig) -> None:
    mark_done(config, 20, 320)
    assert judge(config, 137, "none", 3).exit_code == 0


def test_near_the_time_limit_it_is_requeued_without_counting(config: TrainConfig) -> None:
    for _ in range(9):
        verdict = judge(config, 0, "USR1", 2)
        assert (verdict.state, verdict.exit_code) == ("requeued", EXIT_REQUEUE)


def test_a_cancelled_job_is_not_requeued(config: TrainConfig) -> None:
    verdict = judge(config, 0, "TERM", 3)
    assert verdict.state == "killed"
    assert verdict.exit_code not in (0, EXIT_REQUEUE)


def test_exit_code_0_alone_is_not_finished(config: TrainConfig) -> None:
    assert judge(config, 0, "none", 3).state == "requeued"
    assert judge(config, 0, "none", 2).state == "failed"


def test_a_user_error_is_not_requeued(config: TrainConfig) -> None:
    assert judge(config, 2, "none", 3).exit_code == 2


def test_failures_at_one_step_are_counted_and_a_checkpoint_resets_the_count(
    config: TrainConfig,
) -> None:
    put_checkpoint(config, 5)
    assert judge(config, 1, "none", 3).exit_code == EXIT_REQUEUE
    assert judge(config, 137, "none", 3).exit_code == EXIT_REQUEUE
    put_checkpoint(config, 10)
    assert judge(config, 1, "none", 3).exit_code == EXIT_REQUEUE
    assert judge(config, 1, "none", 3).exit_code == EXIT_REQUEUE
    verdict = judge(config, 1, "USR1", 3)
    assert verdict.exit_code not in (0, EXIT_REQUEUE)
    assert "failed 3 times at the checkpoint of step 10" in verdict.message
    verdict = judge(config, 1, "none", 3, is_first_try=True)
    assert verdict.exit_code == EXIT_REQUEUE, "a new job resets the count"


def test_the_state_is_recorded(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    EventLog(config.output)
    record_state(config, "requeued")
    event = [event for event, _ in read_events(config.output / "events.jsonl")][-1]
    assert event["tags"] == {"state": "requeued", "slurm.job_id": "12"}


class Clock:
    """In place of `time` in the watchdog: a sleep moves it on and takes no time."""

    def __init__(self, events: Mapping[float, Callable[[], object]]) -> None:
        """`events` are called when so many seconds have passed."""
        self.now = 0.0
        self._events = dict(events)

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Lets `seconds` pass."""
        self.now += seconds
        for at in [at for at in self._events if at <= self.now]:
            self._events.pop(at)()


def test_a_start_may_take_longer_than_a_step(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog(config.output)
    clock = Clock({})
    monkeypatch.setattr(slurm_job, "time", clock)
    wait_for_silence(config, 20, start_s=80)
    assert 80 < clock.now <= 80 + 5 + 5
    clock = Clock({50: lambda: log.metrics(1, {"loss": 1.0})})
    monkeypatch.setattr(slurm_job, "time", clock)
    wait_for_silence(config, 20, start_s=6000)
    assert 50 + 20 < clock.now <= 50 + 20 + 5 + 5


@pytest.mark.parametrize("step_s", [3600, -3600])
def test_a_step_of_the_clock_ends_no_run(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, step_s: int
) -> None:
    """The file server's clock, which the log's time comes from, is set while a run makes steps."""
    log = EventLog(config.output)

    def take_step(number: int) -> None:
        log.metrics(number, {"loss": 1.0})
        now = 1e9 + 10 * number + (step_s if number > 5 else 0)
        os.utime(config.output / "events.jsonl", (now, now))

    clock = Clock({10 * number: partial(take_step, number) for number in range(1, 30)})
    monkeypatch.setattr(slurm_job, "time", clock)
    wait_for_silence(config, 20, start_s=80)
    assert 290 + 20 < clock.now <= 290 + 20 + 5 + 5


def test_a_good_node_has_no_problems(tmp_path: Path) -> None:
    assert not list(folder_problems(tmp_path / "new" / "run"))
    assert not list((tmp_path / "new" / "run").iterdir())
    assert not list(memory_problems())
    assert not list(clock_problems(time.time()))
    assert not list(accelerator_problems(0))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (problem,) = folder_problems(tmp_path / "file" / "run")
    assert "cannot write to" in problem


def test_a_wrong_clock() -> None:
    (problem,) = clock_problems(time.time() + 3600)
    assert "the clock differs by -3600 s" in problem


@pytest.mark.parametrize(
    ("script", "needed", "message"),
    [
        ("echo 0; echo 1", 2, None),
        ("echo 0; echo 1", 4, "2 accelerators visible, 4 required"),
        ("echo 'No devices were found' >&2; exit 6", 2, "nvidia-smi: No devices were found"),
        (None, 2, "neither nvidia-smi nor rocm-smi is installed"),
    ],
)
def test_accelerators_are_those_that_the_driver_shows(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str | None,
    needed: int,
    message: str | None,
) -> None:
    if script:
        program = Path(tmp_path / "nvidia-smi")
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    if script is None:
        monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    problems = list(accelerator_problems(needed))
    assert problems == ([] if message is None else [problems[0]])
    assert message is None or message in problems[0]


def test_accelerators_of_amd_are_counted_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "rocm-smi"
    rows = "device,VRAM Total Memory (B),VRAM Total Used Memory (B)\ncard0,68702699520,1\n"
    program.write_text(f"#!/bin/sh\ncat <<EOF\n{rows}card1,68702699520,1\nEOF\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    for variable in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)
    assert list(accelerator_problems(2)) == []
    assert list(accelerator_problems(4)) == ["2 accelerators visible, 4 required"]
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "1")
    assert list(accelerator_problems(2)) == ["1 accelerators visible, 2 required"]
