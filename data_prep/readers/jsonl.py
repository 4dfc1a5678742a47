"""JSON lines: one object per line, with its text under a key."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import orjson

from data_prep.readers.archives import ArchiveReader
from data_prep.readers.content import open_content
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.files import SourceFile, Span
from data_prep.readers.lines import LineFiles
from data_prep.readers.reader import Reader, RecordsConfig

_MAX_VALUES = 4_000_000
"""Commas, braces and brackets of a line, those in texts included. As objects these values take half
a gigabyte, in a line of a few kilobytes when compressed."""


class JsonLinesReaderConfig(RecordsConfig):
    """JSON lines, plain or .gz, .zst, .bz2."""

    type: Literal["jsonl"]

    def build(self) -> Reader:
        """The reader."""
        return ArchiveReader(JsonLinesReader(self), self)


class JsonLinesReader:
    """Reads JSON lines."""

    def __init__(self, config: JsonLinesReaderConfig, files: LineFiles | None = None) -> None:
        self._text_field = config.text_field
        self._id_field = config.id_field
        self._files = files or LineFiles()

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """Byte ranges; a line belongs to the range in which it starts."""
        return self._files.spans(file, part_bytes)

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The documents whose lines start in `span`."""
        with open_content(span.file, self._files.encoding) as content:
            for offset, line in self._files.lines_in(content, span, bad):
                if line.strip():
                    document = self._document(line, offset, span.file, bad)
                    if document is not None:
                        yield document

    def _document(
        self, line: bytes, offset: int, file: SourceFile, bad: BadRecords
    ) -> Document | None:
        """The document of a line; None, counted in `bad`, if it holds none."""
        if bad.has_too_many(line, b",{[", _MAX_VALUES, file.path, offset):
            return None
        try:
            record = parse_line(line)
        except ValueError as error:
            bad.add(file.path, offset, "not JSON", str(error), len(line))
            return None
        if not isinstance(record, dict):
            bad.add(file.path, offset, "JSON, but no object", num_bytes=len(line))
            return None
        text = record.get(self._text_field)
        if not isinstance(text, str):
            reason = "is no text" if self._text_field in record else "is missing"
            field = f"the field {self._text_field!r} {reason}"
            bad.add(file.path, offset, field, num_bytes=len(line))
            return None
        if bad.has_nul(text, file.path, offset):
            return None
        own_id = record.get(self._id_field) if self._id_field else None
        return Document(text, f"{file.name}:{offset}" if own_id is None else str(own_id), offset)


def parse_line(line: bytes) -> Any:
    """The value of a line; raises ValueError if it is not JSON.

    What the fast parser rejects, Python's own may accept: NaN, Infinity and numbers of any length
    are not JSON, but Python writes them. A byte order mark is skipped.
    """
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            value = json.loads(line.decode("utf-8-sig"))
            json.dumps(value, ensure_ascii=False).encode()  # fails for half a surrogate pair
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        return value
