"""The stage framework: frozen plans, atomic parts, resumption.

A stage is a function over parts. Its folder under the work folder holds::

    plan.json            what the stage is going to do: settings, inputs, part boundaries
    PART.*               the outputs of a part, each written under a temporary name and renamed
    PART.record.json     counts and hashes of those outputs, written after them
    settings-*.pickle    what all parts need to know
    done.json            the fingerprint of the plan and all records, written last

Killed at any moment and run again, a stage does the parts that have no record, and nothing else.
Resuming under another plan is refused with a list of what differs.
"""

import json
import pickle
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import xxhash

from configs.load import UserError, fingerprint
from data_prep.dataset.atomic import write_atomic

Record = dict[str, Any]
_MAX_DIFFERENCES_SHOWN = 12
_BAR = 20


@dataclass(frozen=True)
class Part:
    """One unit of work of a stage."""

    name: str
    """Name of the part, the beginning of its files' names."""
    arguments: Mapping[str, Any]
    """What the task needs to know about this part; plain JSON values."""
    num_bytes: int = 0
    """Bytes of input, for the progress line."""


def source_of(name: str) -> str:
    """The source that a part belongs to: a name is ``SOURCE-NUMBER``, or begins so."""
    return name.rpartition("-")[0]


Task = Callable[[Path, Part, Mapping[str, Any]], tuple[Record, Sequence[str]]]
"""A task takes (output folder, part, settings), writes files whose names begin with ``PART.`` and
gives back (counts for the record, names of the files)."""


@dataclass(frozen=True)
class Stage:
    """What one stage does. Everything here but `task` is frozen in its plan."""

    name: str
    version: int
    """Raised when the code of the stage gives other results for the same input."""
    settings: Mapping[str, Any]
    """The settings that the results depend on."""
    inputs: Mapping[str, str]
    """Content fingerprints of the stages and files that this one reads."""
    parts: Sequence[Part]
    task: Task
    context: Mapping[str, Any] = field(default_factory=dict)
    """What the task needs besides its settings, and the results do not depend on (folders)."""
    output_folder: Path | None = None
    """Where the outputs go, if not to the stage's own folder."""

    @property
    def content_fingerprint(self) -> str:
        """Names the result: the same whatever the part boundaries and the number of workers."""
        return fingerprint(self._content())

    def plan(self) -> dict[str, Any]:
        """The frozen plan as JSON values."""
        parts = {part.name: dict(part.arguments) for part in self.parts}
        return {**self._content(), "parts": parts}

    def _content(self) -> dict[str, Any]:
        return {
            "stage": self.name,
            "version": self.version,
            "settings": dict(self.settings),
            "inputs": dict(self.inputs),
        }


@dataclass(frozen=True)
class StageResult:
    """A finished stage."""

    folder: Path
    parts: Sequence[Part]
    records: Sequence[Record]
    """One record a part, in the order of the parts."""
    content_fingerprint: str

    def total(self, key: str) -> int:
        """The sum of a count over all parts."""
        return sum(record[key] for record in self.records)


class PartRunner(Protocol):
    """Runs calls somewhere (the engine does it in worker processes), in any order."""

    def run(
        self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], names: Sequence[str]
    ) -> Iterator[Any]:
        """The results, as they come in; `names` of the calls are for people."""


def run_stage(
    stage: Stage, work: Path, runner: PartRunner, show: Callable[[str, bool], None]
) -> StageResult:
    """The finished stage: parts without a record are run, finished ones are taken as they are.

    `show(line, is_last)` shows a line of progress. Raises UserError when the folder holds work of
    another plan.
    """
    folder = work / stage.name
    plan = json.loads(json.dumps(stage.plan()))
    plan_fingerprint = fingerprint(plan)
    _freeze(folder, stage.name, plan)
    known = _finished_records(stage, folder, plan_fingerprint)
    missing = [part for part in stage.parts if part.name not in known]
    if missing or not (folder / "done.json").exists():
        _run_missing(stage, folder, missing, runner, known, show)
        records = [known[part.name] for part in stage.parts]
        done = {"plan": plan_fingerprint, "records": records}
        write_atomic(folder / "done.json", json.dumps(done))
    return StageResult(
        folder, stage.parts, [known[part.name] for part in stage.parts], stage.content_fingerprint
    )


def restart_from(work: Path, names: Iterable[str]) -> None:
    """Removes the work of the named stages."""
    for name in names:
        if (work / name).exists():
            (work / name / "done.json").unlink(missing_ok=True)
            shutil.rmtree(work / name)


def _freeze(folder: Path, name: str, plan: dict[str, Any]) -> None:
    path = folder / "plan.json"
    if not path.exists():
        write_atomic(path, json.dumps(plan, indent=1, sort_keys=True))
        return
    old = json.loads(path.read_bytes())
    if old == plan:
        return
    lines = list(_differences(old, plan))
    if len(lines) > _MAX_DIFFERENCES_SHOWN:
        rest = len(lines) - _MAX_DIFFERENCES_SHOWN
        lines = [*lines[:_MAX_DIFFERENCES_SHOWN], f"and {rest} more"]
    raise UserError(
        f"{folder}: the work of the stage {name!r} was begun under another plan:\n"
        + "\n".join(f"  {line}" for line in lines)
        + f"\nrun again with '--restart-from {name}' to do this stage and those after it anew, or "
        "go back to the settings and files of before"
    )


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            where = f"{path}.{key}" if path else key
            if key not in old:
                yield f"{where}: new"
            elif key not in new:
                yield f"{where}: gone"
            else:
                yield from _differences(old[key], new[key], where)
    elif old != new:
        yield f"{path}: was {_shorten(old)}, now {_shorten(new)}"


def _shorten(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _finished_records(stage: Stage, folder: Path, plan_fingerprint: str) -> dict[str, Record]:
    """Records of the parts whose outputs are all there with the sizes that were recorded."""
    done_path = folder / "done.json"
    records: dict[str, Record] = {}
    if done_path.exists():
        done = json.loads(done_path.read_bytes())
        if done["plan"] == plan_fingerprint:
            records = {
                part.name: record for part, record in zip(stage.parts, done["records"], strict=True)
            }
    for part in stage.parts:
        path = folder / f"{part.name}.record.json"
        if part.name not in records and path.exists():
            records[part.name] = json.loads(path.read_bytes())
    outputs = stage.output_folder or folder
    return {name: r for name, r in records.items() if _outputs_are_there(outputs, r)}


def _outputs_are_there(folder: Path, record: Record) -> bool:
    for name, entry in record["outputs"].items():
        try:
            if (folder / name).stat().st_size != entry["bytes"]:
                return False
        except FileNotFoundError:
            return False
    return True


def _run_missing(
    stage: Stage,
    folder: Path,
    missing: Sequence[Part],
    runner: PartRunner,
    known: dict[str, Record],
    show: Callable[[str, bool], None],
) -> None:
    (folder / "done.json").unlink(missing_ok=True)
    outputs = stage.output_folder or folder
    outputs.mkdir(parents=True, exist_ok=True)
    # The settings name every part of earlier stages: sent with each call, they would make the time
    # grow with the square of the number of parts.
    content = pickle.dumps({**stage.settings, **stage.context})
    settings = folder / f"settings-{xxhash.xxh3_64_hexdigest(content)}.pickle"
    write_atomic(settings, content)
    calls = [(stage.task, str(outputs), str(folder), part, str(settings)) for part in missing]
    if not missing:
        return
    progress = _Progress(stage, missing)
    show(progress.line(), False)
    names = [f"{stage.name}/{part.name}" for part in missing]
    for name, record in runner.run(run_part, calls, names):
        known[name] = record
        progress.add(name)
        show(progress.line(), False)
    show(progress.line(), True)


def run_part(
    task: Task, outputs: str, folder: str, part: Part, settings: str
) -> tuple[str, Record]:
    """Runs one part and writes its record, after its outputs are on disk."""
    counts, names = task(Path(outputs), part, _settings_in(settings))
    assert all(name.startswith(f"{part.name}.") for name in names), names
    entries = {name: _describe_file(Path(outputs) / name) for name in names}
    record = json.loads(json.dumps({**counts, "outputs": entries}))
    write_atomic(Path(folder) / f"{part.name}.record.json", json.dumps(record))
    return part.name, record


@lru_cache(maxsize=1)
def _settings_in(path: str) -> Mapping[str, Any]:
    """The settings of the stage at work, read once a process; the name changes with the content."""
    settings: Mapping[str, Any] = pickle.loads(Path(path).read_bytes())
    return settings


def _describe_file(path: Path) -> dict[str, Any]:
    digest = xxhash.xxh3_128()
    num_bytes = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            num_bytes += len(chunk)
    return {"bytes": num_bytes, "xxh3_128": digest.hexdigest()}


class _Progress:
    """The line that says how far a stage is."""

    def __init__(self, stage: Stage, missing: Sequence[Part]) -> None:
        self._name = stage.name
        self._bytes_of = {part.name: part.num_bytes for part in missing}
        self._num_parts = len(stage.parts)
        self._num_done = self._num_parts - len(missing)
        self._num_bytes = 0
        self._bytes_to_do = sum(self._bytes_of.values())
        self._begun = time.monotonic()

    def add(self, name: str) -> None:
        self._num_done += 1
        self._num_bytes += self._bytes_of[name]

    def line(self) -> str:
        seconds = time.monotonic() - self._begun
        is_finished = self._num_done == self._num_parts
        filled = _BAR * self._num_done // self._num_parts
        bar = "" if is_finished else "#" * filled + "." * (_BAR - filled) + " "
        text = f"{self._name:<15} {bar}{self._num_done}/{self._num_parts} parts"
        if self._num_bytes:
            rate = self._num_bytes / max(seconds, 1e-9)
            text += f"  {self._num_bytes / 1e6:,.1f} MB  {rate / 1e6:,.1f} MB/s"
            left = (self._bytes_to_do - self._num_bytes) / rate
            if left:
                return text + f"  {left:,.0f} s left"
        return text + (f"  {seconds:.1f} s" if is_finished else "")
