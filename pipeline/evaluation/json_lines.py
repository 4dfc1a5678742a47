"""Reads probe files: JSON lines, maybe compressed; bad lines are named, or counted by reason."""

import glob
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from configs.load import UserError
from pipeline.finetuning.inputs.content import COMPRESSION_ENDINGS, not_utf8, text_of

RecordT = TypeVar("RecordT")
MAX_SHOWN = 10
"""Bad lines that a message names."""


class BadRecordError(ValueError):
    """A record that cannot be used; the message is the reason."""


@dataclass(frozen=True)
class Records(Generic[RecordT]):
    """The records of a file."""

    name: str
    """The file's name without its suffix."""
    records: tuple[RecordT, ...]
    bad: Counter[str] = field(default_factory=Counter)
    """Records that were skipped, by reason."""


def find_files(patterns: Sequence[str], key: str) -> list[Path]:
    """The files of all `patterns`, in their order, each once.

    Raises UserError, which names the config's `key`, for a pattern that no file matches.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        matches = (
            [Path(pattern)] if Path(pattern).is_file() else sorted(map(Path, glob.glob(pattern)))
        )
        files = [path for path in matches if path.is_file()]
        if not files:
            raise UserError(f"{key}: no file matches {pattern!r}")
        found |= dict.fromkeys(files)
    return list(found)


def read_records(
    paths: Sequence[Path],
    read: Callable[[dict[str, Any]], RecordT],
    bad_records: Literal["refuse", "skip"],
) -> list[Records[RecordT]]:
    """The records of each of `paths`; `read` makes one of a line's object.

    `read` raises BadRecordError for a line that is none. Raises one UserError that names the bad
    lines of all files, if they are to be refused; and for a file that cannot be read, is damaged or
    has no usable record.
    """
    found, problems = [], []
    for path, name in zip(paths, names_of(paths), strict=True):
        records, bad = [], []
        for number, line in _lines(path):
            try:
                records.append(read(_parse(line)))
            except BadRecordError as error:
                bad.append((number, str(error)))
        if bad and bad_records == "refuse":
            problems += [f"{path}:{number}: {reason}" for number, reason in bad]
        elif not records:
            problems.append(f"{path}: no usable record")
        found.append(Records(name, tuple(records), Counter(reason for _, reason in bad)))
    if problems:
        shown = problems[:MAX_SHOWN]
        more = f"\n  and {len(problems) - MAX_SHOWN} more" * (len(problems) > MAX_SHOWN)
        raise UserError(
            f"{len(problems)} bad record(s) in the probe files:\n  "
            + "\n  ".join(shown)
            + more
            + "\ncorrect them, or set bad_records=skip, which counts them"
        )
    return found


def names_of(paths: Sequence[Path]) -> list[str]:
    """A name for each file: its stem, with its folder where two would be equal."""
    stems = Counter(map(_stem, paths))
    names = [_stem(p) if stems[_stem(p)] == 1 else f"{p.parent.name}/{p.name}" for p in paths]
    repeated = {name for name, count in Counter(names).items() if count > 1}
    return [str(p) if name in repeated else name for p, name in zip(paths, names, strict=True)]


def text_field(record: dict[str, Any], key: str) -> str:
    """The text under `key`; raises BadRecordError where there is none."""
    value = record.get(key)
    if value is None:
        known = ", ".join(sorted(record)) or "none"
        raise BadRecordError(f"no {key!r} (its keys: {known[:120]})")
    if not isinstance(value, str):
        raise BadRecordError(f"{key!r} is no text but {type(value).__name__}")
    if not value.strip():
        raise BadRecordError(f"{key!r} is empty")
    return value


def _stem(path: Path) -> str:
    """The name of a file without its suffix, and without that of its compression."""
    is_compressed = path.suffix.lower() in COMPRESSION_ENDINGS
    return Path(path.stem).stem if is_compressed else path.stem


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with text_of(path) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield number, line


def _parse(line: str) -> dict[str, Any]:
    if problem := not_utf8(line):
        raise BadRecordError(problem)
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRecordError(f"no JSON ({str(error)[:80]})") from None
    if not isinstance(value, dict):
        raise BadRecordError(f"no JSON object but {type(value).__name__}")
    return value
