"""The first stage alone, in this process, for the tests of what it records."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.documents.config import SourceConfig
from data_prep.documents.ingest import IngestPart, ingest_stage
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
    stage = ingest_stage(
        {name: SourceConfig.model_validate({"reader": tree}) for name, tree in readers.items()},
        dict.fromkeys(readers, filters),
        scrub=ScrubConfig(),
        max_document_bytes=1 << 20,
        on_bad_record="skip",
        part_bytes=part_bytes,
    )
    return run_stage(stage, work, SerialEngine(), ProgressReporter())
