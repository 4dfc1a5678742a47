"""JSON lines: one object a line, its text under a key."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import orjson
from pydantic import Field

from configs.load import Config
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.files import SourceFile, Span, open_file
from data_prep.readers.lines import line_spans, lines_in


class JsonLinesReaderConfig(Config):
    """JSON lines; .gz, .zst and .bz2 too."""

    type: Literal["jsonl"]
    files: tuple[str, ...] = Field(min_length=1)
    """Paths, globs or URLs."""
    text_field: str = "text"
    """Key of the text."""
    id_field: str | None = None
    """Key of the record's own id; FILE:OFFSET is used when not given."""

    def build(self) -> "JsonLinesReader":
        """The reader."""
        return JsonLinesReader(self)


class JsonLinesReader:
    """Reads JSON lines."""

    def __init__(self, config: JsonLinesReaderConfig) -> None:
        self._text_field = config.text_field
        self._id_field = config.id_field

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """Byte ranges; a line belongs to the range in which it begins."""
        return line_spans(file, part_bytes)

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The documents whose lines begin in `span`."""
        path, name = span.file.path, span.file.name
        with open_file(span.file) as stream:
            for offset, line in lines_in(stream, span, bad):
                if not line.strip():
                    continue
                try:
                    record = _parsed(line)
                except ValueError as error:
                    bad.add(path, offset, "not JSON", str(error))
                    continue
                if not isinstance(record, dict):
                    bad.add(path, offset, "JSON, but no object")
                    continue
                text = record.get(self._text_field)
                if not isinstance(text, str):
                    reason = "is no text" if self._text_field in record else "is missing"
                    bad.add(path, offset, f"the field {self._text_field!r} {reason}")
                    continue
                if "\0" in text:
                    bad.add(path, offset, "NUL byte")
                    continue
                own_id = record.get(self._id_field) if self._id_field else None
                own_id = f"{name}:{offset}" if own_id is None else str(own_id)
                yield Document(text, own_id, offset)


def _parsed(line: bytes) -> Any:
    """The value of a line; ValueError where it is no JSON.

    What the fast parser refuses, Python's own may take: NaN, Infinity and numbers of any length are
    no JSON, but Python writes them. A byte order mark is passed over.
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
