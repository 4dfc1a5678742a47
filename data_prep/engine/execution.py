"""Runs stages: frozen plans, atomic parts, resumption.

The folder of a stage under the work folder holds::

    plan.json            what the stage is going to do: settings, inputs, part boundaries
    PART.*               the outputs of a part, each written under a temporary name and renamed
    PART.record.json     counts and hashes of those outputs, written after them
    stage-*.pickle       the stage without its parts, for the worker processes
    done.json            the fingerprint of the plan and all records, written last

Killed at any moment and run again, a stage runs the parts that have no record, and nothing else.
Resuming under a different plan is refused with a list of the differences.
"""

import json
import pickle
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import xxhash

from configs.load import UserError, fingerprint
from data_prep.dataset.atomic import write_atomic
from data_prep.engine.progress import ProgressReporter
from data_prep.engine.stage import Part, PartT, Record, Stage, StageResult

_MAX_DIFFERENCES_SHOWN = 12


class PartRunner(Protocol):
    """Runs calls somewhere (the engine does it in worker processes), in any order."""

    def run(
        self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], names: Sequence[str]
    ) -> Iterator[Any]:
        """The results as they come in; `names` of the calls are for people."""


def run_stage(
    stage: Stage[PartT], work: Path, runner: PartRunner, reporter: ProgressReporter
) -> StageResult[PartT]:
    """The finished stage: runs the parts without a record, takes over the finished ones.

    Raises UserError when the folder holds work under a different plan.
    """
    folder = work / stage.name
    plan = json.loads(json.dumps(stage.plan()))
    plan_fingerprint = fingerprint(plan)
    _freeze(folder, stage.name, plan)
    known = _finished_records(stage, folder, plan_fingerprint)
    missing = [part for part in stage.parts if part.name not in known]
    if missing or not (folder / "done.json").exists():
        known |= _run_missing(stage, folder, missing, runner, reporter)
        done = {"plan": plan_fingerprint, "records": [known[part.name] for part in stage.parts]}
        write_atomic(folder / "done.json", json.dumps(done))
    return StageResult(
        folder=folder,
        parts=stage.parts,
        records=[known[part.name] for part in stage.parts],
        content_fingerprint=stage.content_fingerprint,
        num_parts_run=len(missing),
    )


def restart_from(work: Path, names: Iterable[str]) -> None:
    """Removes the work of the named stages."""
    for name in names:
        if (work / name).exists():
            (work / name / "done.json").unlink(missing_ok=True)
            shutil.rmtree(work / name)


def _freeze(folder: Path, name: str, plan: dict[str, Any]) -> None:
    """Writes the plan, or checks it against the one that was frozen before."""
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
        f"{folder}: the stage {name!r} was started under a different plan:\n"
        + "\n".join(f"  {line}" for line in lines)
        + f"\nrun again with '--restart-from {name}' to repeat this stage and all later ones, or "
        "restore the previous settings and files"
    )


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            where = f"{path}.{key}" if path else key
            if key not in old:
                yield f"{where}: added"
            elif key not in new:
                yield f"{where}: removed"
            else:
                yield from _differences(old[key], new[key], where)
    elif old != new:
        yield f"{path}: was {_shorten(old)}, now {_shorten(new)}"


def _shorten(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _finished_records(stage: Stage[Any], folder: Path, plan_fingerprint: str) -> dict[str, Record]:
    """Records of the parts whose outputs all exist with the recorded sizes."""
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
    return {name: record for name, record in records.items() if _outputs_exist(outputs, record)}


def _outputs_exist(folder: Path, record: Record) -> bool:
    for name, entry in record["outputs"].items():
        try:
            if (folder / name).stat().st_size != entry["bytes"]:
                return False
        except FileNotFoundError:
            return False
    return True


def _run_missing(
    stage: Stage[PartT],
    folder: Path,
    missing: Sequence[PartT],
    runner: PartRunner,
    reporter: ProgressReporter,
) -> dict[str, Record]:
    """Runs the missing parts and gives their records."""
    (folder / "done.json").unlink(missing_ok=True)
    outputs = stage.output_folder or folder
    outputs.mkdir(parents=True, exist_ok=True)
    # A stage knows every part of earlier stages: sent with each call, it would make the time grow
    # with the square of the number of parts. So each worker process reads it once, from a file.
    content = pickle.dumps(replace(stage, parts=()))
    path = folder / f"stage-{xxhash.xxh3_64_hexdigest(content)}.pickle"
    write_atomic(path, content)
    if not missing:
        return {}
    part_of = {part.name: part for part in missing}
    calls = [(str(path), str(outputs), part) for part in missing]
    records: dict[str, Record] = {}
    with reporter.stage(stage, missing) as progress:
        for name, record in runner.run(
            run_part, calls, [f"{stage.name}/{name}" for name in part_of]
        ):
            records[name] = record
            progress.add(part_of[name])
    return records


def run_part(stage_path: str, outputs: str, part: Part) -> tuple[str, Record]:
    """Runs one part and writes its record, after its outputs are on disk; (its name, the record).

    `stage_path` is the pickled stage, in whose folder the record goes.
    """
    counts, names = _stage_in(stage_path).run_part(Path(outputs), part)
    assert all(name.startswith(f"{part.name}.") for name in names), names
    entries = {name: _describe_file(Path(outputs) / name) for name in names}
    record = json.loads(json.dumps({**counts, "outputs": entries}))
    write_atomic(Path(stage_path).parent / f"{part.name}.record.json", json.dumps(record))
    return part.name, record


@lru_cache(maxsize=1)
def _stage_in(path: str) -> Stage[Any]:
    """The pickled stage, read once per process; the name of the file changes with its content."""
    stage: Stage[Any] = pickle.loads(Path(path).read_bytes())
    return stage


def _describe_file(path: Path) -> dict[str, Any]:
    digest = xxhash.xxh3_128()
    num_bytes = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            num_bytes += len(chunk)
    return {"bytes": num_bytes, "xxh3_128": digest.hexdigest()}
