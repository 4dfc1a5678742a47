"""What a run would do, with sizes and the first documents, without doing it."""

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from configs.terminal import visible_name
from data_prep.checks import Findings, check
from data_prep.config import DataConfig
from data_prep.documents.compressed_files import poorly_shared
from data_prep.documents.ingest import IngestStage
from data_prep.documents.known_spans import KnownSpans
from data_prep.first_records import MAX_KINDS, MAX_READ, FirstOfFiles
from data_prep.folders import (
    BYTES_PER_ID,
    BYTES_PER_TOKEN,
    WORK_BYTES_PER_BYTE,
    nearest_folder,
)
from data_prep.preparation import Preparation
from data_prep.readers.reader import spans_of_files
from data_prep.stage_builders import build_ingest
from data_prep.stages import STAGES

_MAX_CUT_FILES = 1000
"""Files above which parts are estimated: the plan opens each file."""
_SHOWN_CHARACTERS = 80


def describe(config: DataConfig) -> str:
    """The plan as lines of text: sources with their first documents, sizes, stages and how far each
    is. Raises UserError with all problems that the checks before the work find."""
    findings = check(config)
    sizes = {
        name: sum(file.num_bytes for file in found.files)
        for name, found in findings.sources.items()
    }
    total = sum(sizes.values())
    tokens = total / BYTES_PER_TOKEN
    rows = tokens / config.pack.row_tokens
    lines = [
        *_sources(config, findings, sizes),
        *_evaluation(config, findings),
        "",
        f"checked: the first bytes of up to {MAX_KINDS} files of each source, and the first "
        f"records of up to {MAX_READ}",
        f"about {tokens / 1e6:,.1f} million tokens in {rows:,.0f} rows of {config.pack.row_tokens} "
        f"({config.pack.mode}) if nothing is dropped; more if files are compressed, as Parquet is",
        f"{config.output}: about {tokens * BYTES_PER_ID / 1e6:,.1f} MB; {config.work}: about "
        f"{total * WORK_BYTES_PER_BYTE / 1e6:,.1f} MB; {_free_mb(config.work):,.0f} MB are free",
        *(f"notice: {notice}" for notice in findings.notices),
        "",
        f"stages in {config.work} (the run compares their settings and files with these):",
    ]
    stages = [entry.name for entry in STAGES if entry.condition.holds(config)]
    lines += [f"{name:<16}{_state(config.work / name)}" for name in stages]
    return "\n".join(lines)


def _sources(config: DataConfig, findings: Findings, sizes: dict[str, int]) -> Iterator[str]:
    """A line for each source, and one for its first document."""
    parts, notices = _parts(config, findings, sizes)
    yield f"{'source':<16}{'format':<12}{'files':>8}{'MB':>12}{'parts':>8}"
    for name, source in config.sources.items():
        found = findings.sources[name]
        yield (
            f"{name:<16}{source.reader.type:<12}{len(found.files):>8,}{sizes[name] / 1e6:>12,.1f}"
            f"{parts[name]:>8}"
        )
        yield f"  {_first(found)}"
    yield from (f"notice: {notice}" for notice in notices)


def _parts(
    config: DataConfig, findings: Findings, sizes: dict[str, int]
) -> tuple[dict[str, str], Sequence[str]]:
    """How many parts each source has, and what is to be known of them; about how many where there
    are many files."""
    num_files = sum(len(found.files) for found in findings.sources.values())
    if num_files > _MAX_CUT_FILES:
        return {
            name: f"~{math.ceil(size / config.part_mb / 1e6):,}" for name, size in sizes.items()
        }, list(_notices_of_large_files(config, findings))
    stage = build_ingest(Preparation(config), is_dry=True)
    counts = Counter(part.source for part in stage.parts)
    return {name: f"{counts[name]:,}" for name in config.sources}, list(stage.notices())


def _notices_of_large_files(config: DataConfig, findings: Findings) -> Iterator[str]:
    """What the first stage would say of the largest files."""
    part_bytes = int(config.part_mb * 1_000_000)
    known = KnownSpans(config.work / IngestStage.name)
    for name, source in config.sources.items():
        files = [file for file in findings.sources[name].files if file.num_bytes > part_bytes]
        files.sort(key=lambda file: -file.num_bytes)
        if files and source.limit is None:
            spans = spans_of_files(known.reader(source.reader), files[:_MAX_CUT_FILES], part_bytes)
            yield from (f"{name}: {line}" for line in poorly_shared(spans))


def _evaluation(config: DataConfig, findings: Findings) -> Iterator[str]:
    """A line for each field of an evaluation set, and one for its first text."""
    if config.decontaminate is None or not findings.evaluation:
        return
    yield ""
    yield f"{'evaluation set':<16}{'format':<12}{'files':>8}  field"
    for name, of_fields in findings.evaluation.items():
        reader = config.decontaminate.evaluation[name]
        fields = config.decontaminate.fields.get(name, (getattr(reader, "text_field", ""),))
        for text_field, found in zip(fields, of_fields, strict=True):
            yield f"{name:<16}{reader.type:<12}{len(found.files):>8,}  {text_field}".rstrip()
            yield f"  {_first(found)}"


def _first(found: FirstOfFiles) -> str:
    """The id and the first characters of the first document."""
    document = found.first
    if document is None:
        return "no document among the records that were read"
    text = " ".join(document.text[:_SHOWN_CHARACTERS].split())
    return f"{visible_name(document.id)}: {visible_name(text)}"


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
    return shutil.disk_usage(nearest_folder(folder)).free / 1e6
