"""What a run would do, with sizes, without doing it."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from data_prep.config import DataConfig
from data_prep.documents.ingest import ingest_stage

_BYTES_PER_TOKEN = 4.4
_WORK_BYTES_PER_BYTE = 1.1
"""Documents (compressed), signatures and ids per byte of text, measured on English."""


def describe(config: DataConfig, stages: Sequence[str]) -> str:
    """The plan as lines of text: sources, sizes, stages and what of them is done."""
    parts = ingest_stage(config).parts
    lines = [f"{'source':<16}{'format':<12}{'files':>8}{'MB':>12}{'parts':>8}"]
    for name, source in config.sources.items():
        mine = [part for part in parts if part.arguments["source"] == name]
        files = {span[0] for part in mine for span in part.arguments["spans"]}
        megabytes = sum(part.num_bytes for part in mine) / 1e6
        kind = source.reader.type
        lines.append(f"{name:<16}{kind:<12}{len(files):>8,}{megabytes:>12,.1f}{len(mine):>8,}")
    total = sum(part.num_bytes for part in parts)
    tokens = total / _BYTES_PER_TOKEN
    rows = tokens / config.pack.row_tokens
    lines += [
        "",
        f"at most about {tokens / 1e6:,.1f} million tokens in {rows:,.0f} rows of "
        f"{config.pack.row_tokens} ({config.pack.mode}), if the files are not compressed and "
        "nothing is dropped",
        f"{config.output}: about {tokens * 2 / 1e6:,.1f} MB; {config.work}: about "
        f"{total * _WORK_BYTES_PER_BYTE / 1e6:,.1f} MB; {_free_mb(config.work):,.0f} MB are free",
        "",
        *(f"{name:<16}{_state(config.work / name)}" for name in stages if _has(config, name)),
    ]
    return "\n".join(lines)


def _has(config: DataConfig, stage: str) -> bool:
    if stage in ("line_counts", "line_repeats", "line_table", "clean"):
        return config.dedup.lines is not None
    if stage in ("ids", "repeated_ids"):
        return bool(config.sources_with_ids)
    if stage in ("excluded_ngrams", "exclusion", "overlap"):
        return config.decontaminate is not None
    return stage != "interleave" or config.pack.mixed


def _state(folder: Path) -> str:
    if (folder / "done.json").exists():
        return "done"
    if not (folder / "plan.json").exists():
        return "not begun"
    planned = len(json.loads((folder / "plan.json").read_bytes())["parts"])
    return f"{len(list(folder.glob('*.record.json')))} of {planned} parts done"


def _free_mb(folder: Path) -> float:
    while not folder.exists():
        folder = folder.parent if folder.parent != folder else Path()
    return shutil.disk_usage(folder).free / 1e6
