"""The first stage alone, in this process, for the tests of what it records."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep.documents.config import SourceConfig
from data_prep.documents.ingest import IngestPart, ingest_stage, ingested_documents
from data_prep.engine.engine import SerialEngine
from data_prep.engine.execution import run_stage
from data_prep.engine.progress import ProgressReporter
from data_prep.engine.stage import StageResult
from data_prep.filters.quality import FiltersConfig
from data_prep.text.scrub import ScrubConfig

ANY_TEXT = FiltersConfig(
    min_words=0, min_stop_words=0, repetition=None, min_alphabetic_share=0, document_language="en"
)


def ingested(
    work: Path,
    readers: Mapping[str, Mapping[str, Any]],
    filters: FiltersConfig = ANY_TEXT,
    part_bytes: int = 1 << 30,
) -> StageResult[IngestPart]:
    """The finished stage; `readers` are the configs of the sources' readers."""
    sources = {n: SourceConfig.model_validate({"reader": tree}) for n, tree in readers.items()}
    return _run(work, sources, filters, part_bytes, ScrubConfig())


def _run(
    work: Path,
    sources: Mapping[str, SourceConfig],
    filters: FiltersConfig,
    part_bytes: int,
    scrub: ScrubConfig,
) -> StageResult[IngestPart]:
    stage = ingest_stage(
        sources,
        dict.fromkeys(sources, filters),
        scrub=scrub,
        max_document_bytes=1 << 20,
        on_bad_record="skip",
        part_bytes=part_bytes,
    )
    return run_stage(stage, work, SerialEngine(), ProgressReporter())


SIZES = (1 << 30, 700)
"""Of parts: one for all, and several."""


def write(folder: Path, records: Sequence[dict[str, Any]], num_files: int = 3) -> str:
    """The pattern of files of records, in their order."""
    folder.mkdir(exist_ok=True)
    each = -(-len(records) // num_files)
    for number in range(num_files):
        lines = [json.dumps(r) + "\n" for r in records[number * each : (number + 1) * each]]
        (folder / f"{number}.jsonl").write_text("".join(lines))
    return f"{folder}/*.jsonl"


def ingested_source(
    work: Path,
    source: dict[str, Any],
    filters: FiltersConfig = ANY_TEXT,
    part_bytes: int = 1 << 30,
) -> StageResult[IngestPart]:
    """The finished stage of one source; e-mail addresses are scrubbed."""
    sources = {"forum": SourceConfig.model_validate(source)}
    return _run(work, sources, filters, part_bytes, ScrubConfig(emails=True))


def stored(result: StageResult[IngestPart]) -> dict[str, list[Any]]:
    """The columns of all files of documents."""
    columns: dict[str, list[Any]] = {}
    documents = ingested_documents(result)
    for file in documents.files:
        for name, values in pq.read_table(documents.path(file.name)).to_pydict().items():
            columns.setdefault(name, []).extend(values)
    return columns


def jsonl(pattern: str, **settings: Any) -> dict[str, Any]:
    return {"type": "jsonl", "files": [pattern], **settings}
