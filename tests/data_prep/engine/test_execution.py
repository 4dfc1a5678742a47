"""The stage framework: frozen plans, and which parts are run again."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from configs.load import UserError
from data_prep.engine.engine import SerialEngine, WorkersKilled
from data_prep.engine.execution import StageRunner, restart_from, run_stage
from data_prep.engine.progress import ProgressReporter
from data_prep.engine.stage import Part, PartOutput, Stage, StageResult
from data_prep.stages import STAGES


@dataclass(frozen=True, kw_only=True)
class NumberPart(Part):
    number: int

    def plan(self) -> dict[str, Any]:
        return {"number": self.number}


@dataclass(frozen=True, kw_only=True)
class SquareStage(Stage[NumberPart]):
    """Squares numbers.

    Details follow.
    """

    name = "square"
    version = 1
    output = "texts"
    offset: int
    fails_at: int = -1

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"offset": self.offset}

    def run_part(self, folder: Path, part: NumberPart) -> PartOutput:
        assert not self.parts
        if part.number == self.fails_at:
            raise RuntimeError("stopped")
        value = part.number**2 + self.offset
        (folder / f"{part.name}.txt").write_text(str(value))
        return PartOutput({"value": value}, [f"{part.name}.txt"])


def square_stage(*numbers: int, offset: int = 0, fails_at: int = -1) -> SquareStage:
    parts = [NumberPart(name=f"n-{number}", number=number) for number in numbers]
    return SquareStage(parts=parts, inputs={"in": "x"}, offset=offset, fails_at=fails_at)


def run(stage: SquareStage, work: Path) -> StageResult[NumberPart]:
    return run_stage(stage, work, SerialEngine(), ProgressReporter())


def test_the_plan_holds_settings_inputs_and_the_facts_of_parts(tmp_path: Path) -> None:
    run(square_stage(3, 4), tmp_path)
    plan = json.loads((tmp_path / "square/plan.json").read_text())
    del plan["sha256"]
    assert plan == {
        "stage": "square",
        "version": 1,
        "settings": {"offset": 0},
        "inputs": {"in": "x"},
        "parts": {"n-3": {"number": 3}, "n-4": {"number": 4}},
    }
    assert SquareStage.summary() == "Squares numbers"


def test_the_content_fingerprint_depends_on_settings_and_not_on_parts() -> None:
    expected = square_stage(1, 2).content_fingerprint
    assert square_stage(3).content_fingerprint == expected
    assert square_stage(1, 2, offset=1).content_fingerprint != expected


def test_results_come_in_the_order_of_the_parts(tmp_path: Path) -> None:
    result = run(square_stage(3, 1, 2), tmp_path)
    assert [record["value"] for record in result.records] == [9, 1, 4]
    assert [part.number for part, _ in result.with_records()] == [3, 1, 2]
    assert [path.read_text() for path in result.files(".txt")] == ["9", "1", "4"]
    assert result.total("value") == 14


class KillsWorkers(SerialEngine):
    """An engine whose workers all end for lack of memory."""

    def run(self, *_: Any, **__: Any) -> Iterator[Any]:
        raise WorkersKilled("square/n-1: killed")


@pytest.mark.parametrize("advice", ["", "; or square less"])
def test_a_part_that_lacks_memory_is_an_error_with_the_advice_of_its_stage(
    tmp_path: Path, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SquareStage, "less_memory", advice)
    with pytest.raises(UserError, match=rf"^square/n-1: killed{advice}$"):
        run_stage(square_stage(1), tmp_path, KillsWorkers(), ProgressReporter())


def test_only_stages_whose_parts_are_smaller_then_advise_to_start_again() -> None:
    advise = {e.name: e.stage.less_memory for e in STAGES if e.stage.less_memory}
    assert {name for name, text in advise.items() if "from ingest" in text} == {
        "ingest",
        "line_counts",
    }
    assert "sample_mb" in advise["tokenizer"]


def test_only_parts_without_a_record_or_output_are_run_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stopped"):
        run(square_stage(1, 2, 3, fails_at=3), tmp_path)
    assert run(square_stage(1, 2, 3), tmp_path).num_parts_run == 1
    assert run(square_stage(1, 2, 3), tmp_path).num_parts_run == 0
    (tmp_path / "square/n-2.txt").unlink()
    assert run(square_stage(1, 2, 3), tmp_path).num_parts_run == 1
    assert (tmp_path / "square/n-2.txt").read_text() == "4"


@dataclass(frozen=True, kw_only=True)
class RunningSumStage(SquareStage):
    """Squares numbers as if each were the one after the square before; a part is run again once
    that is known."""

    def notices(self) -> Iterator[str]:
        yield "guesses"

    def parts_to_repeat(self, records: Mapping[str, Any]) -> list[NumberPart]:
        repeated, expected = [], self.parts[0].number
        for part in self.parts:
            if records[part.name]["value"] != expected**2:
                repeated.append(NumberPart(name=part.name, number=expected))
            expected = expected**2 + 1
        return repeated


def test_parts_that_guessed_wrongly_are_run_again_also_after_a_kill(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts = [NumberPart(name=f"n-{k}", number=number) for k, number in enumerate((1, 2, 7, 9))]
    stage = RunningSumStage(parts=parts, inputs={}, offset=0)
    result = run(stage, tmp_path)
    assert [record["value"] for record in result.records] == [1, 4, 25, 26**2]
    assert (tmp_path / "square/n-3.txt").read_text() == str(26**2)
    assert caplog.messages.count("square: guesses") == 1
    caplog.clear()
    assert run(stage, tmp_path).num_parts_run == 0
    assert not caplog.messages
    (tmp_path / "square/n-2.txt").write_text("99")
    (tmp_path / "square/done.json").unlink()
    (tmp_path / "square/n-2.record.json").unlink()
    again = run(stage, tmp_path)
    assert [record["value"] for record in again.records] == [1, 4, 25, 26**2]


def test_a_different_plan_is_refused_with_its_differences(tmp_path: Path) -> None:
    run(square_stage(1, 2), tmp_path)
    with pytest.raises(UserError, match=r"'square' was started under a different plan") as error:
        run(square_stage(2, 3, offset=5), tmp_path)
    message = str(error.value)
    assert "parts.n-1: removed" in message
    assert "parts.n-3: added" in message
    assert "settings.offset: was 0, now 5" in message
    assert "--restart-from square" in message
    restart_from(tmp_path, ["square"])
    assert run(square_stage(2, 3, offset=5), tmp_path).total("value") == 23


def test_a_new_version_of_a_stage_is_named_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the parts, of which a message shows the first dozen."""
    run(square_stage(*range(20)), tmp_path)
    monkeypatch.setattr(SquareStage, "version", SquareStage.version + 1)
    with pytest.raises(UserError, match=r"under a different plan:\n  version: was \d+, now \d+\n"):
        run(square_stage(*range(20, 40)), tmp_path)


def test_a_plan_without_finished_parts_is_replaced(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stopped"):
        run(square_stage(1, fails_at=1), tmp_path)
    assert run(square_stage(2, 3, offset=5), tmp_path).total("value") == 23


def test_a_damaged_part_that_comes_out_differently_is_refused_each_time(tmp_path: Path) -> None:
    """Until the stage is started again: later stages were made of what it was."""
    run(square_stage(1, 2), tmp_path)
    (tmp_path / "square/n-2.txt").write_text("5")

    def differently(self: SquareStage, folder: Path, part: NumberPart) -> PartOutput:
        (folder / f"{part.name}.txt").write_text("6")
        return PartOutput({"value": 6}, [f"{part.name}.txt"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SquareStage, "run_part", differently)
        for _ in range(2):
            stages = StageRunner(tmp_path, SerialEngine(), ProgressReporter())
            stages.run(square_stage(1, 2))
            with pytest.raises(UserError, match=r"gave other content.*--restart-from square"):
                stages.check(["square"])
    stages = StageRunner(tmp_path, SerialEngine(), ProgressReporter())
    stages.run(square_stage(1, 2))
    assert stages.check(["square"])
    assert (tmp_path / "square/n-2.txt").read_text() == "4"


def test_a_record_of_before_is_not_taken_for_that_of_a_call(tmp_path: Path) -> None:
    """As when an output is lost and its record is not: a task that is done again finds none."""
    run(square_stage(1, 2), tmp_path)
    (tmp_path / "square/n-2.txt").unlink()
    found = []

    class Asks(SerialEngine):
        def run(self, function: Any, calls: Any, names: Any, *rest: Any) -> Iterator[Any]:
            shared, _, result_on_disk = rest
            for call in calls:
                found.append(result_on_disk(*shared, *call))
                result = function(*shared, *call)
                assert result_on_disk(*shared, *call) == result
                yield result

    run_stage(square_stage(1, 2), tmp_path, Asks(), ProgressReporter())
    assert found == [None]
