"""Many tiny files are many parts: each weighs at least what opening it costs."""

from pathlib import Path

from data_prep.config import DataConfig
from data_prep.documents.ingest import IngestStage, ingest_stage


def stage_of(folder: Path, part_bytes: int) -> IngestStage:
    sources = {"tiny": {"reader": {"type": "text", "files": f"{folder}/raw/*.txt"}}}
    tree = {"output": folder / "rows", "work": folder / "work", "sources": sources}
    config = DataConfig.model_validate(tree)
    return ingest_stage(
        config.sources,
        {"tiny": config.filters},
        scrub=config.scrub,
        max_document_bytes=1000,
        on_bad_record="skip",
        part_bytes=part_bytes,
    )


def test_tiny_files_are_no_part_of_an_hour(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for number in range(300):
        (tmp_path / f"raw/{number:03d}.txt").write_text("some words " * 10)
    parts = stage_of(tmp_path, 1 << 20).parts
    assert len(parts) == 10  # by their sizes alone, one
    assert {len(part.spans) for part in parts[:-1]} == {31}
    for part_bytes in (100, 1 << 30):
        other = stage_of(tmp_path, part_bytes).parts
        assert [span.file for part in other for span in part.spans] == [
            span.file for part in parts for span in part.spans
        ]
