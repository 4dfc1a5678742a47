"""The sha256 of every shard, computed by all ranks, each a share, and remembered.

A rank that hashed terabytes alone, before it met the others, would let them wait beyond the time
limit of the rendezvous. What was found right is kept in a file of the run, so that a restart hashes
only what is new or has changed since (by size and time of change). Blocks are checked again when
they are read: damage that leaves a file's size and time alone is found then.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from configs.load import UserError
from data_prep.dataset.atomic import write_atomic
from data_prep.dataset.manifest import Manifest, Shard
from data_prep.dataset.verify import file_problem, files_differ
from model.parallel.json_exchange import broadcast_json, gather_json
from pipeline.data.config import DataConfig
from pipeline.launch.signals import StopRequest

VERIFIED_NAME = "verified_shards.json"
ROUND_BYTES = 16 * 2**30
"""About what a rank hashes between two exchanges with its peers: a minute or two."""

logger = logging.getLogger(__name__)

DataSet = tuple[DataConfig, Manifest]
Mark = tuple[int, int, str]
"""Of a verified file: bytes, time of its last change in nanoseconds, sha256."""


@dataclass(frozen=True)
class _Task:
    """A shard of a data set that has to be hashed."""

    folder: Path
    shard: Shard

    @property
    def path(self) -> str:
        return str(self.folder / self.shard.path)


def verify_contents(
    data_sets: Sequence[DataSet], folder: Path, stop: StopRequest | None = None
) -> bool:
    """Hashes the shards of `data_sets` whose `data.verify` is full; a collective of all ranks.

    Shards in an object store are left out: each is hashed when it is fetched. Those that the file
    `VERIFIED_NAME` in `folder` remembers as unchanged are left out too. Returns False on all ranks
    if any of them has a stop signal, seen by `stop`, before all shards were hashed.
    Raises UserError on all ranks alike, which names all shards that are missing or damaged.
    """
    tasks = list(_tasks(data_sets))
    if not tasks:
        return True
    memory = folder / VERIFIED_NAME
    rank, world_size = dist.get_rank(), dist.get_world_size()
    marks: dict[str, Mark] = {}
    pending: list[int] = []
    if rank == 0:
        marks = _read(memory)
        pending = [number for number, task in enumerate(tasks) if not _is_known(task, marks)]
    waiting = [tasks[number] for number in broadcast_json(pending)]
    if waiting:
        logger.info(
            "verifying %s of %s shards (%.3g GB) over %d rank(s)",
            f"{len(waiting):,}",
            f"{len(tasks):,}",
            sum(task.shard.bytes for task in waiting) / 1e9,
            world_size,
        )
    problems: dict[str, list[str]] = {}
    num_done = 0
    for part in _rounds(waiting, world_size):
        results = gather_json([_verified(part[rank::world_size]), stop is not None and stop.seen])
        for (found, damaged), _ in results:
            marks.update({path: tuple(mark) for path, mark in found.items()})
            for place, lines in damaged.items():
                problems.setdefault(place, []).extend(lines)
        num_done += len(part)
        if rank == 0:
            write_atomic(memory, json.dumps(marks, indent=1) + "\n")
        if any(is_stopped for _, is_stopped in results):
            break
    if problems:
        errors = [files_differ(place, sorted(lines)) for place, lines in problems.items()]
        raise UserError("\n".join(str(error) for error in errors))
    return num_done == len(waiting)


def _tasks(data_sets: Sequence[DataSet]) -> Iterator[_Task]:
    """Each shard once, of the data sets on disk that are to be hashed."""
    seen: set[Path] = set()
    for data, manifest in data_sets:
        path = data.path.resolve()
        if data.url is None and data.verify == "full" and path not in seen:
            seen.add(path)
            yield from (_Task(path, shard) for shard in manifest.shards())


def _rounds(tasks: Sequence[_Task], world_size: int) -> Iterator[Sequence[_Task]]:
    """The tasks in order, `ROUND_BYTES` a rank at a time, and at least one shard a rank."""
    if not tasks:
        return
    largest = max(task.shard.bytes for task in tasks)
    size = world_size * max(1, ROUND_BYTES // max(1, largest))
    for start in range(0, len(tasks), size):
        yield tasks[start : start + size]


def _verified(tasks: Sequence[_Task]) -> tuple[dict[str, Mark], dict[str, list[str]]]:
    """(marks of the files that are right by path, lines about the others by folder)."""
    marks: dict[str, Mark] = {}
    problems: dict[str, list[str]] = {}
    for task in tasks:
        before = _mark(task)
        shard = task.shard
        problem = file_problem(task.folder, shard.path, shard.bytes, shard.sha256)
        if problem is not None:
            problems.setdefault(str(task.folder), []).append(f"{shard.path}: {problem}")
        elif before is not None:  # of before: a file that changed meanwhile is hashed again
            marks[task.path] = before
    return marks, problems


def _is_known(task: _Task, marks: dict[str, Mark]) -> bool:
    """Whether the file is as it was when its hash was computed.

    Not where blocks have no checksums: nothing else would find damage without a change of time.
    """
    if task.shard.block_xxh3_64 is None:
        return False
    return task.path in marks and marks[task.path] == _mark(task)


def _mark(task: _Task) -> Mark | None:
    """Of the file as it is now, with the hash that it should have; None if it cannot be read."""
    try:
        status = (task.folder / task.shard.path).stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, task.shard.sha256


def _read(path: Path) -> dict[str, Mark]:
    """The marks in the file; none where it is missing or damaged, which costs hashing only."""
    try:
        tree: Any = json.loads(path.read_bytes())
        return {
            str(name): (int(size), int(time_ns), str(sha256))
            for name, (size, time_ns, sha256) in tree.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        logger.warning("%s cannot be read (%s): all shards are verified", path, error)
        return {}
