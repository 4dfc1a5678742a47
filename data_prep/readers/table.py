"""CSV and TSV files: a column of texts."""

import csv
import json
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Literal

from pydantic import ConfigDict, Field

from configs.load import UserError
from data_prep.readers.archives import ArchiveReader
from data_prep.readers.columns import Columns
from data_prep.readers.content import Content, open_content
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.encodings import Encoding
from data_prep.readers.files import SourceFile, Span
from data_prep.readers.json_parser import CUT_RECORD
from data_prep.readers.likely_encoding import why_not_utf_8
from data_prep.readers.lines import LineFiles
from data_prep.readers.reader import NoFieldError, Reader, RecordsConfig
from data_prep.readers.table_dialect import (
    MAX_FIELDS,
    TOO_MANY_FIELDS,
    Dialect,
    decoded,
    reason_of,
)
from data_prep.readers.table_lines import has_only_returns, table_lines
from data_prep.readers.table_records import TableRecord, TableRecords

_HEAD_BYTES = 1 << 16
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class TableReaderConfig(RecordsConfig):
    """CSV or TSV files, plain, compressed or in archives.

    Without `id_field`, ids are FILE:LINE, or FILE:OFFSET if `quoted_newlines` is false.
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)

    type: Literal["csv", "tsv"]
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    """What separates fields; by default a comma (csv) or a tab (tsv)."""
    quoting: Literal["standard", "none"] = "standard"
    """Whether quotes enclose fields (RFC 4180), or are characters like others, as in GLUE's TSV."""
    quote: str = Field('"', min_length=1, max_length=1)
    """The character that encloses fields."""
    escape: Literal["doubled", "backslash"] = "doubled"
    """How a quote within quotes is written: doubled, or after a backslash, which then makes a
    character of whatever follows it."""
    header: Literal["present", "none"] | tuple[str, ...] = "present"
    """Whether the first record holds the names of the columns; for files without such a record, the
    names, or `none`: `text_field` and `id_field` are numbers then, from 1."""
    encoding: Encoding | None = None
    """Encoding of the files, such as cp1252 or utf-16; by default a byte order mark decides, or
    else UTF-8."""
    quoted_newlines: bool = True
    """Whether a quoted field may hold newlines. Only reading a file from its start distinguishes a
    line inside quotes from a record, so such a file is one part; with false, or without quoting,
    every line is a record, and a large file is cut into parts."""

    def build(self) -> Reader:
        """The reader."""
        return ArchiveReader(TableReader(self), self)


class TableReader:
    """Reads CSV and TSV."""

    def __init__(self, config: TableReaderConfig, files: LineFiles | None = None) -> None:
        self._columns = Columns.of(config)
        self._header = config.header
        self._has_backslashes = config.escape == "backslash"
        quote = config.quote if config.quoting == "standard" else None
        delimiter = config.delimiter or {"csv": ",", "tsv": "\t"}[config.type]
        self._dialect = Dialect(delimiter, quote, self._has_backslashes)
        self._lines_are_records = not config.quoted_newlines or (
            quote is None and not self._has_backslashes
        )
        self._files = files or LineFiles(encoding=config.encoding)

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """Byte ranges if every line is a record, else the whole file."""
        spans = [Span(file, 0, file.num_bytes)]
        with open_content(file, self._files.encoding) as content:
            if self._reads_lines(content):
                spans = self._files.spans(file, part_bytes)
            self._check_header(content, spans)
        return spans

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The documents. Bad records are counted at their line numbers, or at their offsets if
        every line is a record."""
        limit = csv.field_size_limit(min(bad.max_document_bytes, sys.maxsize))  # else 128 KB
        try:
            with open_content(span.file, self._files.encoding) as content:
                if self._reads_lines(content):
                    yield from self._documents_of_lines(content, span, bad)
                else:
                    yield from self._documents(content, span, bad)
        finally:
            csv.field_size_limit(limit)

    def _reads_lines(self, content: Content) -> bool:
        chunk_bytes = self._files.chunk_bytes
        return self._lines_are_records and not has_only_returns(content, _HEAD_BYTES, chunk_bytes)

    def _check_header(self, content: Content, spans: list[Span]) -> None:
        """Raises NoFieldError if the first record shows that a column is missing."""
        head = content.head(_HEAD_BYTES, self._files.chunk_bytes).removeprefix(_BYTE_ORDER_MARK)
        raw_lines = head.splitlines(keepends=True)
        raw_lines[:1] = map(self._dialect.without_separator_line, raw_lines[:1])
        lines = [decoded(line) for line in raw_lines]
        try:
            first = next((row for row in self._dialect.rows(lines) if row), None)
        except csv.Error as error:
            message = f"{content.file.path}: its first record is damaged: {error}"
            raise NoFieldError(message, spans) from None
        if first is None:
            return
        path, names = content.file.path, self._names(first)
        for name in (self._columns.text, self._columns.id):
            if name is not None and name not in names:
                likely = self._dialect.likely_delimiter(lines[0], name)
                if likely is not None and self._header == "present":
                    raise NoFieldError(
                        f"{path}: no column {name!r}; its header looks separated by {likely!r}: "
                        f"set `delimiter: {json.dumps(likely)}`",
                        spans,
                    )
                message = self._columns.no_field(name, list(names), path)
                raise NoFieldError(f"{message}; without a header, set `header`", spans)
            if name is not None and self._names_of(first).count(name) > 1:
                raise UserError(
                    f"{path}: has {self._names_of(first).count(name)} columns named {name!r}; "
                    "rename one, or skip its names by `header`"
                )

    def _names_of(self, first: list[str]) -> list[str]:
        if self._header == "present":
            return first
        if self._header == "none":
            return [str(number) for number in range(1, len(first) + 1)]
        return list(self._header)

    def _names(self, first: list[str]) -> dict[str, int]:
        """The columns by name, of a file whose first record is `first`."""
        names = self._names_of(first)
        return {name: at for at, name in reversed(list(enumerate(names)))}

    def _documents(self, content: Content, span: Span, bad: BadRecords) -> Iterator[Document]:
        lines = table_lines(content, self._files.chunk_bytes, bad)
        first = (line and self._dialect.without_separator_line(line) for line in islice(lines, 1))
        lines = chain(first, lines)
        table = TableRecords(lines, self._dialect, span.file.path, bad, content.is_plain)
        names: dict[str, int] | None = None
        for record in table.records():
            if names is None:
                names = self._names(record.row)
                table.expect(len(self._names_of(record.row)), names.get(self._columns.text, -1))
                if self._header == "present":
                    continue
                if len(record.row) != len(names):
                    self._count_short(record, len(names), span.file, bad)
                    continue
            document = self._document(record, names, span.file, bad)
            if document is not None:
                yield document

    def _count_short(
        self, record: TableRecord, num_fields: int, file: SourceFile, bad: BadRecords
    ) -> None:
        num_bytes, detail = sum(map(len, record.lines)), f"{len(record.row)} fields"
        bad.add(file.path, record.place, f"not {num_fields} fields", detail, num_bytes)

    def _document(
        self, record: TableRecord, names: Mapping[str, int], file: SourceFile, bad: BadRecords
    ) -> Document | None:
        """The document of a record; None, counted in `bad`, if its text cannot be used."""
        place, row, columns = record.place, record.row, self._columns
        at = names.get(columns.text)
        num_bytes = sum(map(len, record.lines))
        if at is None:
            reason = f"the field {columns.text!r} is missing"
            bad.add(file.path, place, reason, f"columns: {', '.join(names)}", num_bytes)
            return None
        text = row[at]
        if not _is_unicode(text):
            raw = b"".join(record.lines)
            bad.add_undecoded(file.path, place, why_not_utf_8(raw), raw)
            return None
        if bad.has_nul(text, file.path, place):
            return None
        own_id = f"{file.name}:{place}"
        if columns.id is not None and columns.id in names:
            own_id = _printable(row[names[columns.id]])
        metadata = None
        if columns.metadata:
            found = [name for name in columns.metadata if name in names]
            metadata = {name: _printable(row[names[name]]) for name in found}
        return Document(text, own_id, place, metadata)

    def _documents_of_lines(
        self, content: Content, span: Span, bad: BadRecords
    ) -> Iterator[Document]:
        """The documents of a file of which every line is a record; those that start in the span."""
        path = span.file.path
        whole = Span(span.file, 0, span.file.num_bytes)
        # Damage before the end of the header is counted below, by the span in which it is.
        # A member of an archive is read once, by one span.
        counted = bad if content.is_member else BadRecords("skip")
        lines = self._files.lines_in(content, whole, counted)
        first_at, first = next((found for found in lines if not self._is_blank(*found)), (0, b""))
        if not first:  # empty, or damaged, which has to be counted
            if not content.is_member:
                deque(self._files.lines_in(content, span, bad), maxlen=0)
            return
        try:
            header = self._fields(first.removeprefix(_BYTE_ORDER_MARK))
        except csv.Error as error:
            raise UserError(f"{path}: its first record is damaged: {error}") from None
        names, num_fields = self._names(header), len(self._names_of(header))
        if self._header != "present" and (span.start == 0 or content.is_member):
            record = self._of_line(first_at, first, num_fields, content, bad)
            document = record and self._document(record, names, span.file, bad)
            if document:
                yield document
        if not content.is_member:
            lines = self._files.lines_in(content, span, bad)
        for offset, line in lines:
            if offset > first_at and line.strip():
                record = self._of_line(offset, line, num_fields, content, bad)
                document = record and self._document(record, names, span.file, bad)
                if document:
                    yield document

    def _is_blank(self, offset: int, line: bytes) -> bool:
        """Whether a line holds no record."""
        return not (self._dialect.without_separator_line(line) if offset == 0 else line).strip()

    def _of_line(
        self, offset: int, line: bytes, num_fields: int, content: Content, bad: BadRecords
    ) -> TableRecord | None:
        """The record of a line; None, counted in `bad`, if it has none."""
        file, is_plain = content.file, content.is_plain
        try:
            row = self._fields(line.removeprefix(_BYTE_ORDER_MARK) if offset == 0 else line)
            if len(row) == num_fields:
                return TableRecord(offset, row, [line])
            reason, detail = f"not {num_fields} fields", f"{len(row)} fields"
        except csv.Error as error:
            reason, detail = reason_of(error), str(error)
        is_cut = not line.endswith((b"\n", b"\r"))
        if is_cut and reason != "longer than max_document_mb":
            detail, num_bytes = f"{reason}: {detail}", len(line)
            bad.add_cut_record(file.path, offset, CUT_RECORD, detail, num_bytes, is_plain)
        else:
            bad.add(file.path, offset, reason, detail, len(line))
        return None

    def _fields(self, line: bytes) -> list[str]:
        if line.count(self._dialect.delimiter.encode()) > MAX_FIELDS:
            raise csv.Error(TOO_MANY_FIELDS)
        quote = None if self._has_backslashes else self._dialect.quote
        if quote is not None and line.count(quote.encode()) % 2:
            raise csv.Error("an odd number of quotes: a quoted field seems to hold a newline")
        row: list[str] = next(self._dialect.rows((decoded(line),)))
        return row


def _printable(value: str) -> str:
    """A value that can be written: what is not UTF-8 is escaped."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
