"""JSON: objects with their text under a key, one on each line or laid out in any other way."""

from collections.abc import Iterator
from typing import Any, Literal

from data_prep.readers.archives import ArchiveReader
from data_prep.readers.content import Content, open_content
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.encodings import Encoding
from data_prep.readers.fields import MISSING, field_of, shown_fields, texts_in
from data_prep.readers.files import SourceFile, Span
from data_prep.readers.json_parser import (
    CUT_RECORD,
    MAX_VALUES,
    NOT_JSON,
    holds_surrogates,
    parse_json,
    why_not_unicode,
    wrapper_reason,
)
from data_prep.readers.json_values import JsonValues, Layout, concatenated, layout_of
from data_prep.readers.kinds import HEAD_BYTES
from data_prep.readers.lines import LineFiles
from data_prep.readers.metadata import metadata_of
from data_prep.readers.reader import Reader, RecordsConfig
from data_prep.readers.url_stream import expect

_MAX_FIRST_LINE_BYTES = 1 << 20
"""How much of a file is read to see its layout; a longer first record is taken for a line."""


class JsonLinesReaderConfig(RecordsConfig):
    """JSON: lines, arrays, pretty-printed or concatenated objects; plain, compressed, in archives.

    `text_field` and `id_field` may be dotted paths into nested objects (see `fields`).
    """

    type: Literal["jsonl"]
    encoding: Encoding | None = None
    """Encoding of the files, such as utf-16 or cp1252; by default a byte order mark decides, or
    else UTF-8."""

    def build(self) -> Reader:
        """The reader."""
        return ArchiveReader(JsonLinesReader(self), self)


class JsonLinesReader:
    """Reads JSON."""

    def __init__(self, config: JsonLinesReaderConfig, files: LineFiles | None = None) -> None:
        self._text_field = config.text_field
        self._id_field = config.id_field
        self._metadata_fields = config.metadata_fields
        self._files = files or LineFiles(encoding=config.encoding)

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """Byte ranges; a line belongs to the range in which it starts. A file that does not have
        its records on lines is one span."""
        if file.num_bytes > part_bytes:
            with open_content(file, self._files.encoding) as content:
                if self._layout(content) is Layout.VALUES:
                    return [Span(file, 0, file.num_bytes)]
        return self._files.spans(file, part_bytes)

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The documents whose records start in `span`."""
        with open_content(span.file, self._files.encoding) as content:
            is_whole_file = span.start == 0 and span.end >= span.file.num_bytes
            if is_whole_file and self._layout(content) is Layout.VALUES:
                yield from self._values(content, span.file, bad)
                return
            for offset, line in self._files.lines_in(content, span, bad):
                if len(line) > MAX_VALUES and bad.has_too_many(
                    line, b",{[", MAX_VALUES, span.file.path, offset
                ):
                    continue
                try:
                    value, is_unicode = parse_json(line)
                except ValueError as error:
                    if not line.isspace():
                        why = str(error)
                        yield from self._of_bad_line(line, offset, why, content, bad)
                    continue
                document = self._document((offset, line, value, is_unicode), span.file, bad)
                if document is not None:
                    yield document

    def _layout(self, content: Content) -> Layout:
        for num_bytes in (HEAD_BYTES, _MAX_FIRST_LINE_BYTES):
            head = content.head(num_bytes, self._files.chunk_bytes)
            layout = layout_of(head, is_whole=len(head) < num_bytes)
            if layout is not None:
                return layout
        return Layout.LINES

    def _values(self, content: Content, file: SourceFile, bad: BadRecords) -> Iterator[Document]:
        """The documents of a file that is not made of lines."""
        expect(content.raw, (0, file.num_bytes))
        chunks = content.chunks(self._files.chunk_bytes)
        values = JsonValues(chunks, file.path, bad, content.is_plain)
        for record in values.records():
            document = self._document(record, file, bad)
            if document is not None:
                yield document

    def _of_bad_line(
        self, line: bytes, offset: int, error: str, content: Content, bad: BadRecords
    ) -> Iterator[Document]:
        """The documents of a line that is not JSON as a whole: newlines may be missing in it, or a
        range of zeros, as file systems leave it after a crash, may precede it."""
        file, rest = content.file, line.lstrip(b"\0")
        if 0 < len(rest) < len(line) and (records := concatenated(rest)):
            num_zeros = len(line) - len(rest)
            bad.add(file.path, offset, NOT_JSON, "zeros", num_zeros)
            line, offset = rest, offset + num_zeros
        else:
            records = concatenated(line)
        for record in records:
            document = self._document(record._replace(offset=offset + record.offset), file, bad)
            if document is not None:
                yield document
        if records:
            return
        if line.endswith(b"\n") or not line.strip(b"\0"):
            bad.add_undecoded(file.path, offset, NOT_JSON, line, error)
        else:
            num_bytes, is_plain = len(line), content.is_plain
            bad.add_cut_record(file.path, offset, CUT_RECORD, error, num_bytes, is_plain)

    def _document(
        self, parsed: tuple[int, bytes, Any, bool], file: SourceFile, bad: BadRecords
    ) -> Document | None:
        """The document of a record (the values of `JsonRecord`); None, counted in `bad`, if it
        holds none."""
        offset, raw, record, is_unicode = parsed
        if not isinstance(record, dict):
            bad.add(file.path, offset, "JSON, but no object", num_bytes=len(raw))
            return None
        text = record.get(self._text_field)
        if not isinstance(text, str):
            found = field_of(record, self._text_field)
            texts = texts_in(found)
            if texts is None:
                reason = self._why_no_text(record, found is MISSING)
                bad.add(file.path, offset, reason, shown_fields(record), len(raw))
                return None
            text = "\n".join(texts)
        if not is_unicode and holds_surrogates(text):
            bad.add_undecoded(file.path, offset, why_not_unicode(raw), raw)
            return None
        if "\0" in text and bad.has_nul(text, file.path, offset):
            return None
        metadata = metadata_of(record, self._metadata_fields) if self._metadata_fields else None
        own_id = field_of(record, self._id_field) if self._id_field else MISSING
        if own_id is None or own_id is MISSING:
            return Document(text, f"{file.name}:{offset}", offset, metadata)
        name = str(own_id).encode("utf-8", "backslashreplace").decode()
        return Document(text, name, offset, metadata)

    def _why_no_text(self, record: dict[str, Any], is_missing: bool) -> str:
        if not is_missing:
            return f"the field {self._text_field!r} is no text"
        for key, values in record.items():
            first = values[0] if isinstance(values, list) and values else None
            if isinstance(first, dict) and field_of(first, self._text_field) is not MISSING:
                return wrapper_reason(key)
        return f"the field {self._text_field!r} is missing"
