"""CSV and TSV files: a column of texts."""

import csv
import sys
from collections.abc import Iterator
from typing import BinaryIO, Literal

from pydantic import Field

from configs.load import Config, UserError
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.files import SourceFile, Span, open_file
from data_prep.readers.lines import line_spans, lines_in


class TableReaderConfig(Config):
    """CSV or TSV files with a header line; .gz, .zst and .bz2 too."""

    type: Literal["csv", "tsv"]
    files: tuple[str, ...] = Field(min_length=1)
    """Paths, globs or URLs."""
    text_field: str = "text"
    """Column of the texts."""
    id_field: str | None = None
    """Column of the records' own ids; when not given, FILE:LINE is used, or FILE:OFFSET where
    `quoted_newlines` is false."""
    quoted_newlines: bool = True
    """Whether a quoted field may hold newlines. Only reading from its start tells a line inside
    quotes from a record, so such a file is one part; with false, every line is a record, and a
    large file is cut into parts."""

    def build(self) -> "TableReader":
        """The reader."""
        return TableReader(self)


class TableReader:
    """Reads CSV (commas) and TSV (tabs), quoted as RFC 4180 has it."""

    def __init__(self, config: TableReaderConfig) -> None:
        self._text_field, self._id_field = config.text_field, config.id_field
        self._quoted_newlines = config.quoted_newlines
        self._delimiter = "," if config.type == "csv" else "\t"

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """Byte ranges where every line is a record, else the whole file."""
        if self._quoted_newlines:
            return [Span(file, 0, file.num_bytes)]
        return line_spans(file, part_bytes)

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The documents; places of bad records are line numbers, or offsets (`quoted_newlines`)."""
        csv.field_size_limit(min(bad.max_document_bytes, sys.maxsize))  # its own is 128 KB a field
        with open_file(span.file) as stream:
            if self._quoted_newlines:
                lines = (line for _, line in lines_in(stream, span, bad))
                records = self._records(lines, span.file.path, bad)
            else:
                records = self._records_of_lines(stream, span, bad)
            header: list[str] | None = None
            for place, row in records:
                if header is None:
                    header = row
                    text_at, id_at = self._columns(header, span.file.path)
                elif len(row) != len(header):
                    reason, detail = f"not {len(header)} fields", f"{len(row)} fields"
                    bad.add(span.file.path, place, reason, detail)
                elif not _is_unicode(row[text_at]):
                    bad.add(span.file.path, place, "not UTF-8")
                elif "\0" in row[text_at]:
                    bad.add(span.file.path, place, "NUL byte")
                else:
                    own_id = f"{span.file.name}:{place}" if id_at is None else row[id_at]
                    yield Document(row[text_at], own_id, place)

    def _columns(self, header: list[str], path: str) -> tuple[int, int | None]:
        for name in filter(None, (self._text_field, self._id_field)):
            if name not in header:
                raise UserError(
                    f"{path}: no column {name!r}; its header has {', '.join(header)}: set the "
                    "reader's text_field and id_field"
                )
        id_at = header.index(self._id_field) if self._id_field else None
        return header.index(self._text_field), id_at

    def _records(
        self, lines: Iterator[bytes], path: str, bad: BadRecords
    ) -> Iterator[tuple[int, list[str]]]:
        """(number of the last line, fields) of every record that is not empty, header and all."""
        decoded = _Decoded(lines)
        rows = csv.reader(decoded, delimiter=self._delimiter, strict=True)
        while True:
            decoded.num_quotes = 0
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                bad.add(path, decoded.num_lines, *_reason(error))
                if _is_too_long(error):
                    decoded.skip_to_end_of_quotes()
                continue
            if row:
                yield decoded.num_lines, row

    def _records_of_lines(
        self, stream: BinaryIO, span: Span, bad: BadRecords
    ) -> Iterator[tuple[int, list[str]]]:
        """(offset, fields) of the file's header and of every line that begins in the span."""
        path = span.file.path
        whole = Span(span.file, 0, span.file.num_bytes)
        # Damage before the header's end is counted below, by the span in which it is.
        lines = lines_in(stream, whole, BadRecords("skip"))
        header_at, header = next((held for held in lines if held[1].strip()), (0, b""))
        if header:
            try:
                yield header_at, self._fields(header, "utf-8-sig")
            except csv.Error as error:
                raise UserError(f"{path}: its header line is no record: {error}") from None
        stream.seek(0)
        for offset, line in lines_in(stream, span, bad):
            if offset > header_at and line.strip():
                try:
                    row = self._fields(line)
                except csv.Error as error:
                    bad.add(path, offset, *_reason(error))
                    continue
                yield offset, row

    def _fields(self, line: bytes, encoding: str = "utf-8") -> list[str]:
        if line.count(b'"') % 2:
            raise csv.Error("an odd number of quotes: a quoted field seems to hold a newline")
        text = line.decode(encoding, "surrogateescape")
        return next(csv.reader((text,), delimiter=self._delimiter, strict=True))


class _Decoded:
    """The lines as text; what is not UTF-8 becomes surrogates, found record by record later."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self._encoding = "utf-8-sig"
        self.num_lines = 0
        """Read so far."""
        self.num_quotes = 0
        """In the lines read since it was set to 0."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.num_lines += 1
        self.num_quotes += line.count(b'"')
        text = line.decode(self._encoding, "surrogateescape")
        self._encoding = "utf-8"
        return text

    def skip_to_end_of_quotes(self) -> None:
        """Passes over lines until every quote is closed again: the rest of a record."""
        while self.num_quotes % 2 and next(self, None) is not None:
            continue


def _is_too_long(error: csv.Error) -> bool:
    return "field limit" in str(error)


def _reason(error: csv.Error) -> tuple[str, str]:
    reason = "longer than max_document_mb" if _is_too_long(error) else "damaged quoting"
    return reason, str(error)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
