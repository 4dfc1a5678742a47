"""Runs stages: frozen plans, atomic parts, resumption, and inputs that are what was written.

Killed at any moment and run again, a stage runs the parts that have no record, and nothing else.
Resuming under a different plan is refused with a list of the differences; see
`data_prep.engine.records` for what is on disk.

Every file has its hash in a record, and a stage is done only once all files that it reads have been
compared with their hashes after it read them. A damaged file is made again by its part, which gives
the same bytes, so that finished stages stay valid::

    resumed      compare what the next stage reads, run damaged parts again
    run stage    its parts, in any order
    afterwards   compare again what it reads: damaged meanwhile? recover it, run the stage again
    done.json    now the stage is done
"""

import gc
import json
import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from configs.allocator import keep_freed_memory
from configs.command import raise_open_files_limit
from configs.load import UserError
from data_prep.engine.costs import measured_costs
from data_prep.engine.engine import PartRunner, WorkersKilled
from data_prep.engine.progress import ProgressReporter
from data_prep.engine.records import (
    StageFolder,
    damaged_files,
    describe_file,
    read_record,
    write_record,
)
from data_prep.engine.stage import Part, PartT, Record, Stage, StageResult

logger = logging.getLogger(__name__)

_MAX_TRIES = 3
_COMPARED_AT_ONCE_BYTES, _COMPARED_AT_ONCE_PARTS = 1 << 28, 256
_COMPARED_IN_THIS_PROCESS_BYTES = 1 << 24
_REPORTED_COMPARISON_S = 10.0
_GARBAGE_COLLECTION = 100_000, 20, 50
"""Of gc.set_threshold: objects, and collections of the younger generation, before a collection."""


@dataclass(frozen=True)
class _Finished:
    """A finished stage, as far as it is needed to run a part of it again."""

    stage: Stage[Any]
    folder: StageFolder
    reads: Sequence[str]
    records: dict[str, Record]
    """By the names of the parts."""


class StageRunner:
    """Runs the stages of one run in their order."""

    def __init__(self, work: Path, runner: PartRunner, reporter: ProgressReporter) -> None:
        self._work, self._runner, self._reporter = work, runner, reporter
        self._finished: dict[str, _Finished] = {}
        self._compared: set[str] = set()
        """Stages whose outputs this process wrote or has compared with their hashes."""

    def run(self, stage: Stage[PartT], reads: Sequence[str] = ()) -> StageResult[PartT]:
        """The finished stage: runs the parts without a record, takes over the finished ones.

        `reads` names the earlier stages whose outputs it reads. Raises UserError when the folder
        holds work under a different plan.
        """
        folder = StageFolder(self._work / stage.name, stage)
        folder.freeze()
        known = folder.records(_outputs_of(stage, folder))
        missing = [part for part in stage.parts if part.name not in known]
        for notice in stage.notices() if missing else ():
            logger.warning("%s: %s", stage.name, notice)
        if len(missing) == len(stage.parts):
            self._compared.add(stage.name)
        if missing or not folder.is_done:
            folder.reopen()
            known = self._run_parts(_Finished(stage, folder, reads, known), missing)
            folder.finish([known[part.name] for part in stage.parts])
        self._finished[stage.name] = _Finished(stage, folder, reads, known)
        records = [known[part.name] for part in stage.parts]
        return StageResult(
            folder=folder.path,
            parts=stage.parts,
            records=records,
            content_fingerprint=stage.result_fingerprint(records),
            num_parts_run=len(missing),
        )

    def check(self, names: Iterable[str], again: bool = False) -> bool:
        """Whether outputs of the named stages were damaged; if so, their parts were run again.

        With `again`, also compares what this process wrote or compared before. Raises UserError if
        a part cannot be made again as it was.
        """
        was_damaged = False
        for name in names:
            if again or name not in self._compared:
                was_damaged |= self._recover(self._finished[name])
                self._compared.add(name)
        return was_damaged

    def _run_parts(self, entry: _Finished, parts: Sequence[Part]) -> dict[str, Record]:
        """The records of all parts of a stage, after `parts` were run; those of others are taken
        over, unless what they had read was damaged."""
        self.check(entry.reads)
        known = dict(entry.records)
        for _ in range(_MAX_TRIES):
            error: Exception | None = None
            try:
                known |= self._call(entry, parts)
                while repeated := entry.stage.parts_to_repeat(known):
                    logger.info("%s: %d parts are run once more", entry.stage.name, len(repeated))
                    known |= self._call(entry, repeated)
            except Exception as raised:  # damaged input can fail anywhere
                error = raised
            if not self.check(entry.reads, again=True):
                if error is not None:
                    raise error
                return known
            logger.warning("%s: run again, as files that it reads were damaged", entry.stage.name)
            parts, known = entry.stage.parts, {}
            entry.folder.discard(parts)
        raise UserError(
            f"{entry.stage.name}: the files that it reads were damaged {_MAX_TRIES} times while it "
            f"ran: check the disk and the file system of {self._work}"
        )

    def _call(self, entry: _Finished, parts: Sequence[Part]) -> dict[str, Record]:
        """Runs parts and gives their records."""
        stage, folder = entry.stage, entry.folder
        outputs = _outputs_of(stage, folder)
        outputs.mkdir(parents=True, exist_ok=True)
        if not parts:
            return {}
        folder.remove_records(parts)  # one that is found from here on was written by this call
        part_of = {part.name: part for part in parts}
        # A stage knows every part of earlier stages: sent with each call, it would make the time
        # grow with the square of the number of parts. So each process receives it once.
        shared = (replace(stage, parts=()), str(folder.path), str(outputs))
        calls = [(part, folder.keys[part.name]) for part in parts]
        names = [f"{stage.name}/{name}" for name in part_of]
        records: dict[str, Record] = {}
        with self._reporter.stage(stage, parts) as progress:
            try:
                memory_bytes = stage.part_memory_bytes
                done = self._runner.run(run_part, calls, names, shared, memory_bytes, recorded_part)
                for name, record in done:
                    records[name] = record
                    progress.add(part_of[name])
            except WorkersKilled as error:
                raise UserError(f"{error}{stage.less_memory}") from None
        return records

    def _recover(self, entry: _Finished) -> bool:
        """Whether a finished stage had damaged outputs; runs their parts again."""
        damaged = self._damaged_outputs(entry)
        if not damaged:
            return False
        name = entry.stage.name
        folder = _outputs_of(entry.stage, entry.folder)
        for part_name, files in damaged.items():
            paths = ", ".join(str(folder / file) for file in files)
            logger.warning("%s: damaged; part %s of %s is run again", paths, part_name, name)
        parts = [part for part in entry.stage.parts if part.name in damaged]
        records = self._run_parts(entry, parts)
        for part_name, record in records.items():
            if record["outputs"] != entry.records[part_name]["outputs"]:
                raise UserError(
                    f"{folder / part_name}.*: was damaged, and running its part again gave other "
                    "content than before (other versions of packages or sources?): run again with "
                    f"'--restart-from {name}'"
                )
        if not entry.folder.is_done:
            entry.folder.finish([records[part.name] for part in entry.stage.parts])
        return True

    def _damaged_outputs(self, entry: _Finished) -> dict[str, list[str]]:
        """Names of damaged outputs, by the names of their parts."""
        started_at = time.monotonic()
        folder = str(_outputs_of(entry.stage, entry.folder))
        part_of = {
            file: name for name, record in entry.records.items() for file in record["outputs"]
        }
        calls = [(folder, outputs) for outputs in _comparisons(entry.records.values())]
        names = [f"compare-{entry.stage.name}/{number}" for number in range(len(calls))]
        damaged: dict[str, list[str]] = {}
        num_bytes = sum(file["bytes"] for _, outputs in calls for file in outputs.values())
        is_little = num_bytes <= _COMPARED_IN_THIS_PROCESS_BYTES  # not worth starting workers
        compared = (
            (damaged_files(*call) for call in calls)
            if is_little
            else self._runner.run(damaged_files, calls, names)
        )
        for files in compared:
            for file in files:
                damaged.setdefault(part_of[file], []).append(file)
        seconds = time.monotonic() - started_at
        if seconds > _REPORTED_COMPARISON_S:
            logger.info("%s: outputs compared with their hashes in %.0f s", folder, seconds)
        return {name: sorted(files) for name, files in sorted(damaged.items())}


def run_stage(
    stage: Stage[PartT], work: Path, runner: PartRunner, reporter: ProgressReporter
) -> StageResult[PartT]:
    """The finished stage, which reads no outputs of others; see `StageRunner.run`."""
    return StageRunner(work, runner, reporter).run(stage)


def restart_from(work: Path, names: Iterable[str]) -> None:
    """Removes the work of the named stages."""
    for name in names:
        if (work / name).exists():
            (work / name / "done.json").unlink(missing_ok=True)
            shutil.rmtree(work / name)


def run_part(
    stage: Stage[Any], folder: str, outputs: str, part: Part, key: str
) -> tuple[str, Record]:
    """Runs one part and writes its record, after its outputs are on disk; (its name, the record).

    The record goes to `folder`, the outputs to `outputs`.
    """
    keep_freed_memory()
    raise_open_files_limit()  # workers of a cluster were started by others
    with measured_costs() as costs, _rare_garbage_collection():
        counts, names = stage.run_part(Path(outputs), part)
        assert all(name.startswith(f"{part.name}.") for name in names), names
        entries = {name: describe_file(Path(outputs) / name) for name in names}
    record = json.loads(json.dumps({**counts, "outputs": entries, "costs": costs.tree()}))
    write_record(Path(folder), key, part.name, record)
    return part.name, record


@contextmanager
def _rare_garbage_collection() -> Iterator[None]:
    """Looks for unreachable cycles of objects less often: a part makes a tuple for each document,
    none of which is in a cycle, and looking took 4 % of the processor time of `ingest`."""
    before = gc.get_threshold()
    gc.set_threshold(*_GARBAGE_COLLECTION)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def recorded_part(
    stage: Stage[Any], folder: str, outputs: str, part: Part, key: str
) -> tuple[str, Record] | None:
    """What `run_part` returned, if it has written the record of this part."""
    record = read_record(Path(folder), key, part.name)
    return None if record is None else (part.name, record)


def _outputs_of(stage: Stage[Any], folder: StageFolder) -> Path:
    return stage.output_folder or folder.path


def _comparisons(records: Iterable[Record]) -> Iterator[dict[str, Any]]:
    """The outputs of all records, in groups that are worth a call each."""
    group: dict[str, Any] = {}
    num_bytes = 0
    for number, record in enumerate(records, start=1):
        group |= record["outputs"]
        num_bytes += sum(entry["bytes"] for entry in record["outputs"].values())
        if num_bytes > _COMPARED_AT_ONCE_BYTES or number % _COMPARED_AT_ONCE_PARTS == 0:
            yield group
            group, num_bytes = {}, 0
    if group:
        yield group
