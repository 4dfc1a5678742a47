"""Sources are cut into parts."""

from pathlib import Path

import pytest

from data_prep.documents.config import SourceConfig
from data_prep.documents.ingest import IngestPart, ingest_stage
from data_prep.filters.quality import FiltersConfig
from data_prep.text.scrub import ScrubConfig
from tests.data_prep.readers.formats import FORMATS
from tests.data_prep.readers.reading import reader_config


def parts_of(pattern: str, kind: str, part_bytes: int) -> list[IngestPart]:
    """The parts of a source."""
    source = SourceConfig(reader=reader_config({"type": kind, "files": [pattern]}))
    stage = ingest_stage(
        {"forum": source},
        {"forum": FiltersConfig()},
        scrub=ScrubConfig(),
        max_document_bytes=1 << 20,
        on_bad_record="skip",
        part_bytes=part_bytes,
    )
    return list(stage.parts)


@pytest.mark.parametrize("name", FORMATS)
def test_files_are_parts_by_their_size(tmp_path: Path, name: str) -> None:
    """Large files are many parts, and many small ones share one."""
    kind, write = FORMATS[name]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / name)
    (together,) = parts_of(f"{tmp_path}/*/*", kind, 64_000_000)
    assert len(together.spans) == 2
    parts = parts_of(f"{tmp_path}/*/*", kind, 1000)
    is_cut = name in ("a.jsonl", "a.parquet", "a.arrow")
    assert (len(parts) >= 4) == is_cut
    assert sum(part.num_bytes for part in parts) == together.num_bytes
