"""Reads whole files for the tests of readers."""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from data_prep.readers import ReaderConfig
from data_prep.readers.document import BadRecordPolicy, BadRecords
from data_prep.readers.files import list_files

WHOLE_BYTES = 1 << 30
"""Size of a span that holds any test file."""


def reader_config(tree: dict[str, Any]) -> ReaderConfig:
    """The config of a reader."""
    config: ReaderConfig = TypeAdapter(ReaderConfig).validate_python(tree)
    return config


def read_documents(
    path: Path | str,
    part_bytes: int = WHOLE_BYTES,
    policy: BadRecordPolicy = "skip",
    max_document_bytes: int = 1 << 62,
    **config: Any,
) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """The documents of the files, and the bad records: ([(text, id)], counts)."""
    checked = reader_config({"files": [str(path)], **config})
    reader, bad = checked.build(), BadRecords(policy, max_document_bytes)
    documents = [
        (document.text, document.id)
        for file in list_files(checked.files, "files")
        for span in reader.spans(file, part_bytes)
        for document in reader.read(span, bad)
    ]
    return documents, dict(bad.counts)
