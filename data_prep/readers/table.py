"""CSV and TSV files: a column of texts."""

import csv
import sys
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from configs.load import Config, UserError
from data_prep.document import BadRecords, Document
from data_prep.readers.files import SourceFile, Span, open_file
from data_prep.readers.text import lines_in


class TableReaderConfig(Config):
    """CSV or TSV files with a header line; .gz, .zst and .bz2 too."""

    type: Literal["csv", "tsv"]
    files: tuple[str, ...] = Field(min_length=1)
    """Paths, globs or URLs."""
    text_field: str = "text"
    """Column of the texts."""
    id_field: str | None = None
    """Column of the records' own ids; FILE:LINE is used when not given."""

    def build(self) -> "TableReader":
        """The reader."""
        return TableReader(self)


class TableReader:
    """Reads CSV (commas) and TSV (tabs), quoted as RFC 4180 has it."""

    def __init__(self, config: TableReaderConfig) -> None:
        self._text_field, self._id_field = config.text_field, config.id_field
        self._delimiter = "," if config.type == "csv" else "\t"

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """The whole file: a line may be inside quotes, which only reading from its start tells."""
        return [Span(file, 0, file.num_bytes)]

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The documents; offsets of bad records are line numbers."""
        path, name = span.file.path, span.file.name
        csv.field_size_limit(sys.maxsize)  # the module's own limit is 128 KB a field
        with open_file(span.file) as stream:
            # What is not UTF-8 becomes surrogates here, and is found record by record below.
            lines = (
                line.decode("utf-8-sig" if at == 0 else "utf-8", "surrogateescape")
                for at, line in lines_in(stream, span, bad)
            )
            rows = csv.reader(lines, delimiter=self._delimiter, strict=True)
            header = self._next(rows, path, bad)
            if header is None:
                return
            for field in filter(None, (self._text_field, self._id_field)):
                if field not in header:
                    raise UserError(
                        f"{path}: no column {field!r}; its header has {', '.join(header)}: set "
                        "the reader's text_field and id_field"
                    )
            text_at = header.index(self._text_field)
            id_at = header.index(self._id_field) if self._id_field else None
            while (row := self._next(rows, path, bad)) is not None:
                line = rows.line_num
                if not row:
                    continue
                if len(row) != len(header):
                    bad.add(path, line, f"not {len(header)} fields", f"{len(row)} fields")
                    continue
                text = row[text_at]
                if not _is_unicode(text):
                    bad.add(path, line, "not UTF-8")
                elif "\0" in text:
                    bad.add(path, line, "NUL byte")
                else:
                    yield Document(text, f"{name}:{line}" if id_at is None else row[id_at])

    def _next(self, rows: Any, path: str, bad: BadRecords) -> list[str] | None:
        while True:
            try:
                row: list[str] = next(rows)
                return row
            except StopIteration:
                return None
            except csv.Error as error:
                bad.add(path, rows.line_num, "damaged quoting", str(error))


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
