"""Sources are cut into parts."""

import json
import zipfile
from pathlib import Path

import pytest

from data_prep.documents.config import SourceConfig
from data_prep.documents.ingest import IngestPart, _parts_in, ingest_stage
from data_prep.filters.quality import FiltersConfig
from data_prep.readers.files import list_files
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


def test_a_frozen_plan_keeps_which_files_are_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "one")
    checked = reader_config({"type": "text", "files": [f"{tmp_path}/*"]})
    (file,) = list_files(checked.files, "files")
    spans = checked.build().spans(file, 1 << 20)
    part = IngestPart(name="s-000000", num_bytes=1, source="s", spans=spans, piece_bytes=9)
    plan = json.loads(json.dumps({"parts": {part.name: part.plan()}}))
    (found,) = _parts_in(plan, ["s"])
    assert [span.archive for span in found.spans] == ["zip"]
    assert list(found.spans) == spans
