"""Progress reports: their content, and when a batch log and a terminal get one."""

import io
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from data_prep.engine.engine import SerialEngine
from data_prep.engine.execution import run_stage
from data_prep.engine.progress import BATCH_INTERVAL_S, ProgressReporter, StageProgress
from data_prep.engine.stage import Part, PartOutput, Stage


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass(frozen=True, kw_only=True)
class SlowStage(Stage[Part]):
    """Takes its time."""

    name = "slow"
    version = 1
    output = "nothing"
    part_s: float
    fails: bool = False

    def run_part(self, folder: Path, part: Part) -> PartOutput:
        time.sleep(self.part_s)
        if self.fails:
            raise RuntimeError("broken")
        return PartOutput({})


def slow_stage(part_s: float, fails: bool = False) -> SlowStage:
    parts = [Part(name=f"part-{number}", num_bytes=2_000_000) for number in range(2)]
    return SlowStage(parts=parts, inputs={}, part_s=part_s, fails=fails)


def test_counts_are_parts_size_throughput_and_time_left() -> None:
    clock = Clock()
    progress = StageProgress(
        "ingest", num_parts=40, num_done=10, total_bytes=6_000_000, clock=clock
    )
    clock.seconds += 30
    assert progress.counts() == "10/40 parts, 30.0 s"
    progress.add(Part(name="a", num_bytes=1_500_000))
    assert progress.counts() == "11/40 parts, 1.5 MB, 0.1 MB/s, 30 s, about 90 s left"
    for number in range(29):
        progress.add(Part(name=f"b{number}"))
    assert progress.counts() == "40/40 parts, 1.5 MB, 0.1 MB/s, 30.0 s"


def test_a_batch_log_gets_lines_while_a_part_is_running(tmp_path: Path, logged: list[str]) -> None:
    reporter = ProgressReporter(interval_s=0.02)
    run_stage(slow_stage(part_s=0.4), tmp_path, SerialEngine(), reporter)
    assert logged[0].startswith("slow: 0/2 parts, 0.0 s")
    assert sum(line.startswith("slow: 0/2 parts") for line in logged) > 1
    assert any(line.startswith("slow: 1/2 parts, 2.0 MB, ") for line in logged)
    assert "s left" in next(line for line in logged if "1/2 parts" in line)
    assert [line for line in logged if "2/2 parts" in line] == logged[-1:]


def test_a_short_stage_logs_one_line_and_a_finished_one_none(
    tmp_path: Path, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())
    reporter = ProgressReporter.for_standard_output()
    assert (reporter.terminal, reporter.interval_s) == (None, BATCH_INTERVAL_S)
    assert BATCH_INTERVAL_S <= 60
    run_stage(slow_stage(part_s=0), tmp_path, SerialEngine(), reporter)
    assert [line.partition(",")[0] for line in logged] == ["slow: 2/2 parts"]
    run_stage(slow_stage(part_s=0), tmp_path, SerialEngine(), reporter)
    assert len(logged) == 1


def test_a_terminal_gets_one_line_that_is_overwritten(tmp_path: Path, logged: list[str]) -> None:
    terminal = io.StringIO()
    reporter = ProgressReporter(terminal, interval_s=0.02)
    run_stage(slow_stage(part_s=0.2), tmp_path, SerialEngine(), reporter)
    shown = terminal.getvalue()
    assert shown.count("\n") == 1
    assert shown.count("\r") > 2
    assert "##########.......... 1/2 parts" in shown
    assert shown.rpartition("\r")[2].split()[1:4] == ["2/2", "parts,", "4.0"]
    assert not logged


def test_a_failed_stage_leaves_the_terminal_at_the_start_of_a_line(tmp_path: Path) -> None:
    terminal = io.StringIO()
    reporter = ProgressReporter(terminal, interval_s=0.02)
    with pytest.raises(RuntimeError, match="broken"):
        run_stage(slow_stage(part_s=0.1, fails=True), tmp_path, SerialEngine(), reporter)
    assert terminal.getvalue().endswith("\n")
    assert "2/2" not in terminal.getvalue()


def test_standard_output_that_is_a_terminal_gets_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    assert ProgressReporter.for_standard_output().terminal is terminal
