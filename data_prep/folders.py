"""The output and the work folder: can they be written, and are their files not read as sources?"""

import fnmatch
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from configs.terminal import visible_name
from data_prep.config import DataConfig
from data_prep.first_records import FirstOfFiles
from data_prep.stages import STAGES

BYTES_PER_TOKEN = 4.4
WORK_BYTES_PER_BYTE = 1.1
"""Documents (compressed), signatures and ids per byte of text, measured on English."""
BYTES_PER_ID = 2
_OUTPUT_NAMES = ("manifest.json", "tokenizer.json", "report.json", "report.html", "request.json")
_WORK_SUFFIXES = (".parquet", ".npy", ".json", ".jsonl", ".ids", ".u64", ".ledger", ".sets")


def folder_problems(config: DataConfig) -> Iterator[str]:
    """Why the folders cannot be used."""
    output, work = (Path(os.path.realpath(path)) for path in (config.output, config.work))
    for key, folder in (("output", config.output), ("work", config.work)):
        yield from _not_writable(key, folder)
    stages = [work / entry.name for entry in STAGES]
    if output == work:
        yield f"output: {visible_name(config.output)} is the work folder; choose another folder"
    elif any(stage == output or stage in output.parents for stage in stages):
        yield (
            f"output: {visible_name(config.output)} is inside the folder of a stage in the work "
            "folder; choose another folder"
        )


def own_files_matched(config: DataConfig, where: str, patterns: Sequence[str]) -> Iterator[str]:
    """Patterns of the config key `where` that match files which the run itself writes."""
    written = {
        "output": (Path(os.path.realpath(config.output)), _output_names(config)),
        "work": (Path(os.path.realpath(config.work)), _work_names(config)),
    }
    for pattern in patterns:
        for key, (folder, names) in written.items():
            if would_match(pattern, folder, names):
                yield (
                    f"{where}: {visible_name(pattern)!r} matches files that the run writes to "
                    f"{key} ({visible_name(folder)}); move {key} elsewhere or narrow the pattern"
                )


def _not_writable(key: str, folder: Path) -> Iterator[str]:
    """Why a folder, or the first one above it that exists, cannot be written."""
    existing = nearest_folder(folder)
    if not existing.is_dir():
        yield f"{key}: {visible_name(existing)} is no folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield f"{key}: {visible_name(existing)} cannot be written; check owner and permissions"


def nearest_folder(path: Path) -> Path:
    """`path`, or the first above it that exists."""
    path = Path(os.path.abspath(path))
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path


def _output_names(config: DataConfig) -> list[str]:
    shards = [f"shards/train-{name}-000000.tar" for name in (*config.sources, "mixed")]
    return [*_OUTPUT_NAMES, *shards]


def _work_names(config: DataConfig) -> list[str]:
    files = [f"{name}-000000{suffix}" for name in config.sources for suffix in _WORK_SUFFIXES]
    return [f"{entry.name}/{file}" for entry in STAGES for file in ("plan.json", *files)]


def would_match(pattern: str, folder: Path, names: Sequence[str]) -> bool:
    """Whether a glob would match one of the files `names` in `folder`."""
    if "://" in pattern and not pattern.startswith("file://"):
        return False
    parts = Path(os.path.abspath(pattern.removeprefix("file://"))).parts
    depth = next((k for k, part in enumerate(parts) if glob_part(part)), len(parts))
    root = Path(os.path.realpath(Path(*parts[:depth])))
    pieces = (*root.parts, *parts[depth:])
    return any(_matches(pieces, (*folder.parts, *name.split("/"))) for name in names)


def glob_part(part: str) -> bool:
    """Whether a part of a path has wildcards."""
    return any(character in part for character in "*?[")


def _matches(pattern: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether a path matches a glob, both in parts; ``**`` is any number of folders."""
    if not pattern or not parts:
        return not pattern and not parts
    if pattern[0] == "**":
        rest = pattern[1:] or ("*",)
        return _matches(rest, parts) or (
            not parts[0].startswith(".") and _matches(pattern, parts[1:])
        )
    if parts[0].startswith(".") and not pattern[0].startswith("."):
        return False
    is_same = pattern[0] == parts[0] or fnmatch.fnmatchcase(parts[0], pattern[0])
    return is_same and _matches(pattern[1:], parts[1:])


def space_notice(config: DataConfig, sources: Mapping[str, FirstOfFiles]) -> Iterator[str]:
    """A notice where the disks seem to have too little space for the files of `sources`."""
    num_bytes = sum(file.num_bytes for found in sources.values() for file in found.files)
    needed: dict[int, tuple[str, int]] = {}
    for folder, size in (
        (config.work, int(num_bytes * WORK_BYTES_PER_BYTE)),
        (config.output, int(num_bytes / BYTES_PER_TOKEN * BYTES_PER_ID)),
    ):
        device = os.stat(nearest_folder(folder)).st_dev
        name, before = needed.get(device, (str(folder), 0))
        needed[device] = (name, before + size)
    for name, size in needed.values():
        free = shutil.disk_usage(nearest_folder(Path(name))).free
        if free < size:
            yield (
                f"{visible_name(name)}: {free / 1e6:,.0f} MB are free, and about "
                f"{size / 1e6:,.0f} MB are needed, more if files are compressed"
            )
