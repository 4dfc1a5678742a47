"""Many parts in few tasks: none is lost or done twice, whatever happens in the middle of a task."""

import math
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from configs.load import UserError
from data_prep.engine import task_feed, tasks
from data_prep.engine.engine import Engine, SerialEngine
from data_prep.engine.execution import run_stage
from data_prep.engine.interrupts import Stopped
from data_prep.engine.progress import ProgressReporter
from data_prep.engine.stage import Part, PartOutput, Stage, StageResult
from data_prep.engine.tasks import TASKS_PER_WORKER, Task, Work, divided, most_open_tasks
from data_prep.engine.workers import LocalEngineConfig
from tests.data_prep.engine.test_workers import wait_until

NUM_PARTS = 24
NAMES = [f"p-{number:02d}" for number in range(NUM_PARTS)]
MIDDLE = NAMES[5]


@pytest.mark.parametrize("num_parts", [1, 31, 100, 1023, 1025, 100_000])
@pytest.mark.parametrize("num_workers", [0, 1, 2, 64, 5000])
@pytest.mark.parametrize("num_open", [0, 40])
def test_tasks_have_every_part_once_and_are_few(
    num_parts: int, num_workers: int, num_open: int
) -> None:
    found = divided(range(7, 7 + num_parts), num_workers, num_open)
    assert [part for task in found for part in task] == list(range(7, 7 + num_parts))
    sizes = {len(task) for task in found}
    assert max(sizes) - min(sizes) <= 1
    assert len(found) == max(1, min(num_parts, most_open_tasks(num_workers) - num_open))


def test_workers_have_tens_of_tasks_and_thousands_of_workers_a_few() -> None:
    assert [most_open_tasks(n) for n in (0, 1, 2, 64)] == [1, 32, 64, 2048]
    assert [most_open_tasks(n) / n for n in (256, 512, 5000)] == [8, 4, 4]


@pytest.mark.parametrize(
    ("seconds", "goes_on", "num_known", "expected"),
    [(math.inf, True, 0, 9), (-1, True, 0, 1), (math.inf, False, 0, 1), (-1, True, 4, 5)],
)
def test_a_task_hands_back_what_it_does_not_begin(
    seconds: float, goes_on: bool, num_known: int, expected: int
) -> None:
    called = []

    def double(factor: int, number: int) -> int:
        called.append(number)
        return factor * number

    work = Work(double, lambda factor, number: factor * number if number < num_known else None)
    task = Task(work, [(number,) for number in range(9)], list("abcdefghi"), seconds)
    assert task.results([2], lambda: goes_on) == [2 * number for number in range(expected)]
    assert called == list(range(num_known, expected))
    assert task.open_calls([2]) == f"{'abcdefghi'[num_known]}: this part"


class Settings:
    """Counts how often it is pickled in this process."""

    num_pickled = 0

    def __getstate__(self) -> dict[str, Any]:
        Settings.num_pickled += 1
        return {"large": "x" * 1000}


def number_with(settings: Settings, number: int) -> int:
    assert vars(settings) == {"large": "x" * 1000}
    return number


def test_tasks_are_few_and_settings_are_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_feed, "task_seconds", lambda num_workers: math.inf)
    monkeypatch.setattr(Settings, "num_pickled", 0)
    submitted = []
    future_of = task_feed.TaskFeed._future

    def counted(self: task_feed.TaskFeed, name: str, *arguments: Any) -> Any:
        submitted.append(name)
        return future_of(self, name, *arguments)

    monkeypatch.setattr(task_feed.TaskFeed, "_future", counted)
    with LocalEngineConfig(workers=2).build() as engine:
        calls = [(number,) for number in range(20_000)]
        names = [f"part-{number}" for (number,) in calls]
        results = list(engine.run(number_with, calls, names, [Settings()]))
    assert sorted(results) == list(range(20_000))
    assert len(submitted) == 2 * TASKS_PER_WORKER + 1
    assert Settings.num_pickled <= 2  # for the scheduler, and by it for the first worker


def test_what_tasks_hand_back_is_done_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_feed, "task_seconds", lambda num_workers: -1)
    monkeypatch.setattr(tasks, "TASKS_PER_WORKER", 4)
    with LocalEngineConfig(workers=2).build() as engine:
        results = list(engine.run(abs, [(-number,) for number in range(100)], ["part"] * 100))
    assert sorted(results) == list(range(100))


@dataclass(frozen=True, kw_only=True)
class NotedStage(Stage[Part]):
    """Notes each try of a part; something happens in one of them."""

    name = "noted"
    version = 1
    output = "texts"
    event: str = ""

    def run_part(self, folder: Path, part: Part) -> PartOutput:
        tries = folder.parent / f"{part.name}.tries"
        with open(tries, "a") as file:
            file.write("x")
        if part.name == MIDDLE:
            if self.event == "fails":
                raise RuntimeError("no such luck")
            if self.event == "kills" or (self.event == "killed" and len(tries.read_text()) == 1):
                os.kill(os.getpid(), signal.SIGKILL)
            if self.event == "waits":
                wait_until((folder.parent / "gate").exists)
        (folder / f"{part.name}.txt").write_text(part.name)
        return PartOutput({"length": len(part.name)}, [f"{part.name}.txt"])


def run_noted(engine: Engine, work: Path, event: str = "") -> StageResult[Part]:
    stage = NotedStage(parts=[Part(name=name) for name in NAMES], inputs={}, event=event)
    return run_stage(stage, work, engine, ProgressReporter())


def tries_in(work: Path) -> dict[str, int]:
    return {path.stem: len(path.read_text()) for path in work.glob("*.tries")}


def content_of(work: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (work / "noted").glob("*.txt")}


@pytest.fixture
def one_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """One task of all parts for a worker, which it does to its end."""
    monkeypatch.setattr(task_feed, "task_seconds", lambda num_workers: math.inf)
    monkeypatch.setattr(tasks, "TASKS_PER_WORKER", 1)


@pytest.mark.usefixtures("one_task")
@pytest.mark.timeout(120)
def test_a_worker_killed_in_a_task_costs_the_part_that_it_was_at(tmp_path: Path) -> None:
    with LocalEngineConfig(workers=1).build() as engine:
        result = run_noted(engine, tmp_path / "killed", "killed")
    expected = run_noted(SerialEngine(), tmp_path / "serial")
    assert tries_in(tmp_path / "killed") == {name: 1 + (name == MIDDLE) for name in NAMES}
    assert content_of(tmp_path / "killed") == content_of(tmp_path / "serial")
    for own, other in zip(result.records, expected.records, strict=True):
        assert own | {"costs": 0} == other | {"costs": 0}


@pytest.mark.usefixtures("one_task")
@pytest.mark.timeout(120)
def test_a_part_of_a_task_that_kills_its_workers_has_four_tries_and_is_named(
    tmp_path: Path,
) -> None:
    with (
        LocalEngineConfig(workers=1).build() as engine,
        pytest.raises(UserError, match=f"^noted/{MIDDLE}: this part killed its worker process 4"),
    ):
        run_noted(engine, tmp_path, "kills")
    assert tries_in(tmp_path) == {**dict.fromkeys(NAMES[:5], 1), MIDDLE: 4}


@pytest.mark.usefixtures("one_task")
@pytest.mark.parametrize("config", [LocalEngineConfig(workers=1), None])
def test_a_part_that_fails_in_a_task_is_named_and_those_before_it_are_kept(
    tmp_path: Path, config: LocalEngineConfig | None
) -> None:
    with config.build() if config else SerialEngine() as engine:
        with pytest.raises(RuntimeError, match="no such luck") as failed:
            run_noted(engine, tmp_path, "fails")
        assert failed.value.__notes__ == [f"in noted/{MIDDLE}"]
        assert tries_in(tmp_path) == dict.fromkeys(NAMES[:6], 1)
        assert run_noted(engine, tmp_path).num_parts_run == NUM_PARTS - 5
    assert tries_in(tmp_path) == {name: 1 + (name == MIDDLE) for name in NAMES}


def task_states(dask_worker: Any) -> set[str]:
    return {task.state for task in dask_worker.state.tasks.values()}


@pytest.mark.usefixtures("one_task")
def test_a_stop_ends_a_task_after_its_part_and_the_next_run_does_the_rest(tmp_path: Path) -> None:
    def stop_in_the_middle() -> None:
        wait_until((tmp_path / f"{MIDDLE}.tries").exists)
        os.kill(os.getpid(), signal.SIGUSR1)

    def stop(number: int, frame: Any) -> None:
        raise Stopped(number)

    before = signal.signal(signal.SIGUSR1, stop)
    stopper = threading.Thread(target=stop_in_the_middle)
    try:
        with LocalEngineConfig(workers=1).build() as engine:
            stopper.start()
            with pytest.raises(Stopped):
                run_noted(engine, tmp_path, "waits")
            client: Any = vars(engine)["_client"]
            wait_until(lambda: all("executing" not in s for s in client.run(task_states).values()))
            (tmp_path / "gate").touch()
            assert list(engine.run(abs, [(-1,)], ["one"])) == [1]  # after the task has ended
            assert tries_in(tmp_path) == dict.fromkeys(NAMES[:6], 1)
            assert run_noted(engine, tmp_path).num_parts_run == NUM_PARTS - 6
    finally:
        signal.signal(signal.SIGUSR1, before)
        stopper.join()
    assert tries_in(tmp_path) == dict.fromkeys(NAMES, 1)
