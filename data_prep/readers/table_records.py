r"""The records of a table, found again after damage.

Quotes may enclose newlines, so one quote too many would make one field of all that follows. A line
start is a *record boundary that parses* if, from it, records parse one after another: their quotes
are as RFC 4180 has them, they have as many fields as the header, and columns that held no white
space so far hold none. How many have to parse depends on the table:

- Lines are records (so far no field held a newline, and 9 of 10 lines parse): one record.
- Fields hold newlines: the records up to the line at which the error was noticed, and three (two,
  if one has quotes), or up to the end of the file; or in any case twenty. Otherwise a line of a
  text could be taken for a record.

After an error, reading continues at the first line start after the start of the damaged record that
is such a boundary::

    id,text
    1,one
    2,"two          a quote too many: it ends before the d of line 5 only, which is an error
    3,three         boundary: lines 4 and 5 parse
    4,"and, four"

More than twenty records within one field, in a table of which no other field so far holds a
newline, are damage too: the quotes of two records, one too many in each.

A quote too many may also end at one that starts a field with a newline or delimiter. Then the
records that follow do not parse. So a record of several lines is held until four more have parsed;
if one of these does not, but does after a boundary inside the held record, that is damage as well.
"""

import csv
import sys
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from data_prep.readers.document import BadRecords
from data_prep.readers.json_parser import CUT_RECORD
from data_prep.readers.table_dialect import (
    MAX_FIELDS,
    TOO_MANY_FIELDS,
    Dialect,
    decoded,
    reason_of,
)
from data_prep.readers.table_trial import TableTrial


class TableRecord(NamedTuple):
    """A record."""

    place: int
    """Number of its first line."""
    row: list[str]
    lines: list[bytes]


class TableRecords:
    """The records of one file, from its start."""

    def __init__(
        self,
        lines: Iterator[bytes | None],
        dialect: Dialect,
        path: str,
        bad: BadRecords,
        is_plain: bool = True,
    ) -> None:
        """`is_plain` says that bytes of the lines are bytes of the file."""
        self._path, self._bad, self._is_plain = path, bad, is_plain
        self._dialect = dialect
        self._ahead = TableTrial(lines, dialect, min(bad.max_raw_bytes, 1 << 24))
        self._rows = dialect.rows(self)
        self._lines: list[bytes] = []
        """Of the record that is being read."""
        self._num_lines = 0
        """Lines of the file up to these."""
        self._num_bytes = self._num_fields = 0
        self._held: deque[TableRecord] = deque()
        """Records that could still be damage; the first of them has several lines."""

    def expect(self, num_fields: int, text_at: int) -> None:
        """From now on, records have `num_fields`, of which the one at `text_at` is the text."""
        self._ahead.num_fields, self._ahead.text_at = num_fields, text_at

    def records(self) -> Iterator[TableRecord]:
        """The records that are not empty, header included."""
        while True:
            self._lines, self._num_bytes, self._num_fields = [], 0, 0
            error = None
            try:
                row = next(self._rows)
            except StopIteration:
                break
            except csv.Error as found:
                error = found
            expected = self._ahead.num_fields
            if error is None and expected and row and len(row) != expected:
                error = csv.Error(f"{len(row)} fields")
            if error is None and self._ahead.are_rows(self._lines[1:-1]):
                error = csv.Error("a quoted field that holds many records")
            if error is not None:
                yield from self._recovered(error)
            elif row:
                first_line = self._num_lines - len(self._lines) + 1
                record = TableRecord(first_line, row, self._lines)
                if self._held or len(self._lines) > 1:
                    yield from self._hold(record)
                else:
                    self._ahead.observe(record.row, 1)
                    yield record
        yield from self._released(0)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """The next line, for the csv module."""
        line = self._ahead.take()
        if line is None:
            if not self._ahead.is_at_damage:
                raise StopIteration
            if not self._lines:
                self._ahead.pass_damage()
            raise csv.Error("damage before the end of the record")
        self._lines.append(line)
        self._num_lines += 1
        self._num_bytes += len(line)
        self._num_fields += line.count(self._dialect.delimiter.encode())
        if self._num_bytes > self._bad.max_raw_bytes:
            raise csv.Error("the record is larger than the field limit times eight")
        if self._num_fields > MAX_FIELDS:
            raise csv.Error(TOO_MANY_FIELDS)
        return decoded(line)

    def _hold(self, record: TableRecord) -> Iterator[TableRecord]:
        self._ahead.observe(record.row, len(record.lines))
        self._held.append(record)
        yield from self._released(4)

    def _released(self, most: int) -> Iterator[TableRecord]:
        """The held records of which `most` others have followed, or that are no longer doubted."""
        while self._held and (len(self._held) > most or len(self._held[0].lines) == 1):
            yield self._held.popleft()

    def _recovered(self, error: csv.Error) -> Iterator[TableRecord]:
        """Counts the damaged record, and goes to the next boundary that parses; the held records,
        unless one of these is the damage."""
        if self._is_in_held():
            return
        yield from self._released(0)
        lost, self._lines = self._lines, []
        self._put_back(lost[1:])
        skipped: list[bytes] = []
        # Without lines: after damage of the file. Where fields hold newlines, a line may be the
        # start of such a field, whose quote is missing.
        if len(lost) != 1 or self._ahead.has_newlines:
            limit = csv.field_size_limit(sys.maxsize)
            skipped = self._ahead.skip_to_boundary(len(lost) - 2)
            csv.field_size_limit(limit)
        self._num_lines += len(skipped)
        if lost or skipped:
            self._count([*lost[:1], *skipped], error)

    def _is_in_held(self) -> bool:
        """Whether the error comes from a quote in a held record: if so, goes to the boundary in it,
        and counts what precedes that."""
        limit = csv.field_size_limit(sys.maxsize)
        try:
            for number in reversed(range(len(self._held))):
                first = self._held[number].lines
                following = [
                    line for record in list(self._held)[number + 1 :] for line in record.lines
                ]
                lines = [*first[1:], *following, *self._lines]
                self._put_back(lines)
                at = self._ahead.boundary_in(len(first) - 1, len(lines) - 1)
                if at is not None:
                    kept = list(self._held)[:number]
                    self._held = deque(kept)
                    skipped = [self._ahead.take() for _ in range(at)]
                    lost = [first[0], *(line for line in skipped if line is not None)]
                    self._num_lines += at
                    self._lines = []
                    self._count(lost, csv.Error("a quoted field that ends in another record"))
                    return True
                for _ in lines:
                    self._ahead.take()
                self._num_lines += len(lines)
        finally:
            csv.field_size_limit(limit)
        return False

    def _put_back(self, lines: list[bytes]) -> None:
        self._ahead.put_back(lines)
        self._num_lines -= len(lines)

    def _count(self, lost: list[bytes], error: csv.Error) -> None:
        place, num_bytes = self._num_lines - len(lost) + 1, sum(map(len, lost))
        is_cut = not lost[-1].endswith((b"\n", b"\r")) and self._ahead.is_at_end()
        is_short = str(error).endswith(" fields") and str(error) != TOO_MANY_FIELDS
        reason = f"not {self._ahead.num_fields} fields" if is_short else reason_of(error)
        if is_cut and reason != "longer than max_document_mb":
            detail, is_plain = f"{reason}: {error}", self._is_plain
            self._bad.add_cut_record(self._path, place, CUT_RECORD, detail, num_bytes, is_plain)
        else:
            self._bad.add(self._path, place, reason, str(error), num_bytes)
