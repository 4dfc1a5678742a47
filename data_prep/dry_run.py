"""What a run would do, with sizes, without doing it."""

import json
import shutil
from pathlib import Path

from data_prep.config import DataConfig
from data_prep.preparation import Preparation
from data_prep.stages import STAGES, build_ingest
from data_prep.tokenization.tokenizer import notices_before

_BYTES_PER_TOKEN = 4.4
_WORK_BYTES_PER_BYTE = 1.1
"""Documents (compressed), signatures and ids per byte of text, measured on English."""


def describe(config: DataConfig) -> str:
    """The plan as lines of text: sources, sizes, stages and how far each is."""
    parts = build_ingest(Preparation(config)).parts
    lines = [f"{'source':<16}{'format':<12}{'files':>8}{'MB':>12}{'parts':>8}"]
    for name, source in config.sources.items():
        of_source = [part for part in parts if part.source == name]
        files = {span.file.path for part in of_source for span in part.spans}
        megabytes = sum(part.num_bytes for part in of_source) / 1e6
        kind = source.reader.type
        lines.append(f"{name:<16}{kind:<12}{len(files):>8,}{megabytes:>12,.1f}{len(of_source):>8,}")
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
    ]
    lines += notices_before(config.tokenizer, config.encoder)
    for entry in STAGES:
        if entry.condition.holds(config):
            lines.append(f"{entry.name:<16}{_state(config.work / entry.name)}")
    return "\n".join(lines)


def _state(folder: Path) -> str:
    if (folder / "done.json").exists():
        return "done"
    if not (folder / "plan.json").exists():
        return "not started"
    try:
        planned = len(json.loads((folder / "plan.json").read_bytes())["parts"])
    except (ValueError, TypeError, KeyError):
        return "its plan.json is damaged"
    return f"{len(list(folder.glob('*.record.json')))} of {planned} parts done"


def _free_mb(folder: Path) -> float:
    while not folder.exists():
        folder = folder.parent if folder.parent != folder else Path()
    return shutil.disk_usage(folder).free / 1e6
