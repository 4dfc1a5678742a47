"""Tables as text: TSV as GLUE publishes it, and CSV."""

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from configs.load import Config, ConfigError, UserError
from pipeline.finetuning.inputs.content import not_utf8, text_of
from pipeline.finetuning.inputs.fields import Columns, Fields
from pipeline.finetuning.inputs.record import BadRecord, Record

if TYPE_CHECKING:
    import _csv

Rows = Iterator[tuple[int, list[str] | BadRecord]]
"""(line at which it starts, cells of a record)."""


class Tsv(Config):
    """Columns between tabs; quotation marks are ordinary characters, as in GLUE's files."""

    type: Literal["tsv"] = "tsv"

    header: bool = True
    """Whether the first line holds the names of the columns."""

    def records(self, path: Path, fields: Fields) -> Iterator[Record]:
        """The lines of a file."""
        with text_of(path) as stream:
            lines = (line.removesuffix("\n").removesuffix("\r") for line in stream)
            rows: Rows = ((n, line.split("\t")) for n, line in enumerate(lines, 1) if line)
            yield from _records(rows, self.header, fields, path)


class Csv(Config):
    """Columns between commas or another character; quoted cells may hold it, and ends of lines."""

    type: Literal["csv"] = "csv"

    delimiter: str = Field(",", min_length=1, max_length=1)
    """What stands between two columns ("\\t" for quoted TSV)."""

    quote: str = Field('"', min_length=1, max_length=1)
    """What stands around a cell; doubled inside it."""

    header: bool = True
    """Whether the first line holds the names of the columns."""

    def records(self, path: Path, fields: Fields) -> Iterator[Record]:
        """The records of a file, each of one or more lines."""
        with text_of(path, newline="") as stream:
            limit = csv.field_size_limit(sys.maxsize)  # else 128 KB
            try:
                reader = csv.reader(
                    stream, delimiter=self.delimiter, quotechar=self.quote, strict=True
                )
                yield from _records(_csv_rows(reader), self.header, fields, path)
            finally:
                csv.field_size_limit(limit)


def _csv_rows(reader: "_csv.Reader") -> Rows:
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield start, BadRecord("syntax", f"not valid CSV: {error}")
            continue
        if cells:
            yield start, cells


def _records(rows: Rows, has_header: bool, fields: Fields, path: Path) -> Iterator[Record]:
    header: list[str] | None = None
    columns: Columns | None = None
    for line, cells in rows:
        place = f"line {line}"
        if isinstance(cells, BadRecord):
            yield Record(place, error=cells)
            continue
        if columns is None:
            if has_header:
                header = _checked_header(cells, path)
            columns = fields.in_columns(header, len(cells), str(path))
            if has_header:
                continue
        error = _error_in(cells, header, columns)
        yield Record(place, error=error) if error else Record(place, columns.values(cells))


def _checked_header(cells: list[str], path: Path) -> list[str]:
    if any(not_utf8(cell) for cell in cells):
        raise UserError(f"{path}: line 1: not UTF-8")
    twice = sorted({cell for cell in cells if cell and cells.count(cell) > 1})
    if twice:
        raise ConfigError(
            f"{path}: line 1 names columns twice: {', '.join(twice[:5])}: if it is no header, set "
            "format.header: false and number the columns in fields"
        )
    return cells


def _error_in(
    cells: Sequence[str], header: Sequence[str] | None, columns: Columns
) -> BadRecord | None:
    if header is not None and len(cells) != len(header):
        return BadRecord("syntax", f"{len(cells)} columns, the header has {len(header)}")
    if len(cells) < columns.num_needed:
        return BadRecord("syntax", f"{len(cells)} columns, {columns.num_needed} are needed")
    problem = next((p for cell in cells if (p := not_utf8(cell))), None)
    return BadRecord("syntax", problem) if problem else None
