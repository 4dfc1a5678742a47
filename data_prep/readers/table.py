"""CSV and TSV files: a column of texts."""

import csv
import sys
from collections.abc import Iterator
from typing import Literal

from configs.load import UserError
from data_prep.readers.archives import ArchiveReader
from data_prep.readers.columns import Columns
from data_prep.readers.content import Content, open_content
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.files import SourceFile, Span
from data_prep.readers.lines import LineFiles
from data_prep.readers.metadata import metadata_of
from data_prep.readers.reader import Reader, RecordsConfig

_MAX_FIELDS = 4_000_000
"""Of a record: each is an object, even if it is empty."""
_TOO_MANY_FIELDS = f"more than {_MAX_FIELDS:,} fields"


class TableReaderConfig(RecordsConfig):
    """CSV or TSV files with a header line, plain or .gz, .zst, .bz2.

    Without `id_field`, ids are FILE:LINE, or FILE:OFFSET if `quoted_newlines` is false.
    """

    type: Literal["csv", "tsv"]
    quoted_newlines: bool = True
    """Whether a quoted field may hold newlines. Only reading a file from its start distinguishes a
    line inside quotes from a record, so such a file is one part; with false, every line is a
    record, and a large file is cut into parts."""

    def build(self) -> Reader:
        """The reader."""
        return ArchiveReader(TableReader(self), self)


class TableReader:
    """Reads CSV (commas) and TSV (tabs), quoted as in RFC 4180."""

    def __init__(self, config: TableReaderConfig, files: LineFiles | None = None) -> None:
        self._columns = Columns.of(config)
        self._quoted_newlines = config.quoted_newlines
        self._delimiter = "," if config.type == "csv" else "\t"
        self._files = files or LineFiles()

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """Byte ranges if every line is a record, else the whole file."""
        if self._quoted_newlines:
            return [Span(file, 0, file.num_bytes)]
        return self._files.spans(file, part_bytes)

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The documents. Bad records are counted at their line numbers, or at their offsets if
        every line is a record."""
        csv.field_size_limit(min(bad.max_document_bytes, sys.maxsize))  # its default is 128 KB
        with open_content(span.file, self._files.encoding) as content:
            if self._quoted_newlines:
                lines = (line for _, line in self._files.lines_in(content, span, bad))
                records = self._records(lines, span.file.path, bad)
            else:
                records = self._records_of_lines(content, span, bad)
            header: list[str] | None = None
            for place, row in records:
                if header is None:
                    header = row
                    self._columns.check_names(header, span.file.path)
                elif (document := self._document(row, header, place, span.file, bad)) is not None:
                    yield document

    def _document(
        self, row: list[str], header: list[str], place: int, file: SourceFile, bad: BadRecords
    ) -> Document | None:
        """The document of a row; None, counted in `bad`, if the row is damaged."""
        if len(row) != len(header):
            bad.add(file.path, place, f"not {len(header)} fields", f"{len(row)} fields")
            return None
        text = row[header.index(self._columns.text)]
        if not _is_unicode(text):
            bad.add(file.path, place, "not UTF-8")
            return None
        if bad.has_nul(text, file.path, place):
            return None
        id_field = self._columns.id
        own_id = f"{file.name}:{place}" if id_field is None else row[header.index(id_field)]
        fields = self._columns.metadata
        metadata = metadata_of(dict(zip(header, row, strict=True)), fields) if fields else None
        return Document(text, own_id, place, metadata)

    def _records(
        self, lines: Iterator[bytes], path: str, bad: BadRecords
    ) -> Iterator[tuple[int, list[str]]]:
        """(number of the last line, fields) of every record that is not empty, header included."""
        decoded = _DecodedLines(lines, self._delimiter.encode(), bad.max_raw_bytes)
        rows = csv.reader(decoded, delimiter=self._delimiter, strict=True)
        while True:
            decoded.num_quotes = decoded.num_bytes = decoded.num_fields = 0
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                bad.add(path, decoded.num_lines, *_reason(error), decoded.num_bytes)
                if _is_too_long(error):
                    decoded.skip_to_end_of_quotes()
                continue
            if row:
                yield decoded.num_lines, row

    def _records_of_lines(
        self, content: Content, span: Span, bad: BadRecords
    ) -> Iterator[tuple[int, list[str]]]:
        """(offset, fields) of the file's header and of every line that starts in the span."""
        path = span.file.path
        whole = Span(span.file, 0, span.file.num_bytes)
        # Damage before the end of the header is counted below, by the span in which it is.
        # A member of an archive is read once, by one span.
        counted = bad if content.is_member else BadRecords("skip")
        lines = self._files.lines_in(content, whole, counted)
        header_at, header = next((found for found in lines if found[1].strip()), (0, b""))
        if header:
            try:
                yield header_at, self._fields(header, "utf-8-sig")
            except csv.Error as error:
                raise UserError(f"{path}: its header line is no record: {error}") from None
        if not content.is_member:
            lines = self._files.lines_in(content, span, bad)
        for offset, line in lines:
            if offset > header_at and line.strip():
                try:
                    row = self._fields(line)
                except csv.Error as error:
                    bad.add(path, offset, *_reason(error), len(line))
                    continue
                yield offset, row

    def _fields(self, line: bytes, encoding: str = "utf-8") -> list[str]:
        if line.count(self._delimiter.encode()) > _MAX_FIELDS:
            raise csv.Error(_TOO_MANY_FIELDS)
        if line.count(b'"') % 2:
            raise csv.Error("an odd number of quotes: a quoted field seems to hold a newline")
        text = line.decode(encoding, "surrogateescape")
        return next(csv.reader((text,), delimiter=self._delimiter, strict=True))


class _DecodedLines:
    """Lines as text. Bytes that are not UTF-8 become surrogates, which the reader finds later."""

    def __init__(self, lines: Iterator[bytes], delimiter: bytes, max_bytes: int) -> None:
        self._lines, self._delimiter, self._max_bytes = lines, delimiter, max_bytes
        self._encoding = "utf-8-sig"
        self._is_skipping = False
        self.num_lines = 0
        """Lines read so far."""
        self.num_quotes = 0
        """Quotes in the lines read since it was set to 0; the same for the two below."""
        self.num_bytes = 0
        self.num_fields = 0
        """Delimiters, also those in quotes."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.num_lines += 1
        self.num_quotes += line.count(b'"')
        self.num_bytes += len(line)
        self.num_fields += line.count(self._delimiter)
        if not self._is_skipping and self.num_bytes > self._max_bytes:
            raise csv.Error("the record is larger than the field limit times eight")
        if not self._is_skipping and self.num_fields > _MAX_FIELDS:
            raise csv.Error(_TOO_MANY_FIELDS)
        text = line.decode(self._encoding, "surrogateescape")
        self._encoding = "utf-8"
        return text

    def skip_to_end_of_quotes(self) -> None:
        """Skips lines until every quote is closed: the rest of a record."""
        self._is_skipping = True
        while self.num_quotes % 2 and next(self, None) is not None:
            continue
        self._is_skipping = False


def _is_too_long(error: csv.Error) -> bool:
    return "field limit" in str(error) or str(error) == _TOO_MANY_FIELDS


def _reason(error: csv.Error) -> tuple[str, str]:
    reason = "longer than max_document_mb" if _is_too_long(error) else "damaged quoting"
    return reason, str(error)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
