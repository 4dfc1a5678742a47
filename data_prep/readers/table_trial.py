"""Tries where records of a table parse, in the lines that are not read yet; see `table_records`."""

import csv
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from data_prep.readers.table_dialect import Dialect, decoded

_SAMPLE_LINES, _LINE_SHARE, _LEAST_SHARE = 200, 0.9, 0.5
"""Of lines that are records; the least share counts where many records held no newline."""
_MANY_RECORDS, _MORE_RECORDS = 20, 100
_MOST_HELD_RECORDS = 5_000
_OBSERVED_RECORDS, _LEAST_OBSERVED = 100, 5


class _Trial(NamedTuple):
    """A record that was tried."""

    parses: bool
    num_lines: int
    has_quotes: bool
    is_end: bool = False


class TableTrial:
    """The lines that are not read yet, of which some are looked at."""

    def __init__(
        self, lines: Iterator[bytes | None], dialect: Dialect, max_record_bytes: int
    ) -> None:
        self._source, self._dialect, self._max_bytes = lines, dialect, max_record_bytes
        self._pending: deque[bytes | None] = deque()
        self.num_fields = 0
        """Of every record; 0 as long as it is not known."""
        self.text_at = -1
        self._num_observed = self._num_with_newlines = 0
        self._words: set[int] = set()
        """Columns without white space so far, other than the text."""

    def take(self) -> bytes | None:
        """The next line; None at the end and, as often as it is asked, at damage."""
        if not self._pending:
            return self._pulled()
        if self._pending[0] is None:
            return None
        return self._pending.popleft()

    def _pulled(self) -> bytes | None:
        line = next(self._source, b"")
        if line is None:
            self._pending.append(None)
        return line or None

    @property
    def is_at_damage(self) -> bool:
        """Whether the next is no line, but damage."""
        return bool(self._pending) and self._pending[0] is None

    def pass_damage(self) -> None:
        """Goes to the line after the damage."""
        self._pending.popleft()

    @property
    def has_newlines(self) -> bool:
        """Whether a field held a newline so far."""
        return self._num_with_newlines > 0

    def is_at_end(self) -> bool:
        """Whether there are no more lines."""
        return self._peek(0) is None and not self.is_at_damage

    def put_back(self, lines: list[bytes]) -> None:
        """Makes `lines` the next ones."""
        self._pending.extendleft(reversed(lines))

    def observe(self, row: list[str], num_lines: int) -> None:
        """Takes note of a record that was read."""
        self._num_with_newlines += num_lines > 1
        if self._num_observed >= _OBSERVED_RECORDS or not self.num_fields:
            return
        found = {at for at, field in enumerate(row) if field and len(field.split()) == 1}
        self._words = found if not self._num_observed else self._words & found
        self._words.discard(self.text_at)
        self._num_observed += 1

    def skip_to_boundary(self, error_at: int) -> list[bytes]:
        """Skips the lines before the next boundary, or damage, or the end; returns them. `error_at`
        is the number of the line, from the next one, at which the error was noticed."""
        skipped: list[bytes] = []
        are_lines = self._are_lines_records()
        while self._peek(0) is not None:
            failed_at, error_at = self._run(0, error_at, are_lines)
            if failed_at is None:
                break
            for _ in range(failed_at + 1):
                line = self.take()
                if line is not None:
                    skipped.append(line)
            error_at -= failed_at + 1
        return skipped

    def boundary_in(self, num_lines: int, error_at: int) -> int | None:
        """The first boundary in the next `num_lines`, after which also the line `error_at` parses;
        None if there is none."""
        at = 0
        while at < num_lines:
            failed_at, _ = self._run(at, error_at, are_lines=False, most=_MOST_HELD_RECORDS)
            if failed_at is None:
                return at
            at = failed_at + 1
        return None

    def _run(
        self, start: int, error_at: int, are_lines: bool, most: int | None = None
    ) -> tuple[int | None, int]:
        """(line of the record that does not parse, None if the line `start` is a boundary; line at
        which its error is noticed)."""
        many = most or (_MANY_RECORDS if self.num_fields > 1 else _MORE_RECORDS)
        at, num_records, has_quotes = start, 0, False
        while True:
            trial = self._tried(at, are_lines)
            if trial.is_end:
                return (None if num_records else start), error_at
            if not trial.parses:
                return at, max(error_at, at + trial.num_lines - 1)
            at += trial.num_lines
            num_records += 1
            has_quotes |= trial.has_quotes
            enough = 2 if has_quotes else 3
            is_sure = num_records >= enough and (has_quotes or self.num_fields > 1)
            if are_lines or num_records >= many or (at > error_at and is_sure):
                return None, error_at

    def _tried(self, at: int, is_one_line: bool) -> _Trial:
        """The record from line `at` on."""
        lines: list[bytes] = []

        def following() -> Iterator[str]:
            num_bytes = 0
            while (line := self._peek(at + len(lines))) is not None:
                lines.append(line)
                num_bytes += len(line)
                if num_bytes > self._max_bytes or (is_one_line and len(lines) > 1):
                    return
                yield decoded(line)

        try:
            row = next(self._dialect.rows(following()))
        except StopIteration:
            return _Trial(True, 0, False, is_end=True)
        except csv.Error:
            return _Trial(False, max(len(lines), 1), False)
        raw = decoded(b"".join(lines))
        parses = not row or (len(row) == self.num_fields and self._fits(row))
        if parses:
            is_whole = self._is_outside_quotes if is_one_line else self._dialect.is_as_written
            parses = is_whole(raw)
        return _Trial(parses, len(lines), (self._dialect.quote or "\0") in raw)

    def _is_outside_quotes(self, line: str) -> bool:
        """Whether a line has no doubled quotes, as lines of a quoted field do, unless it is as a
        program writes records. Single quotes may be those of a file without quoting."""
        return (self._dialect.quote or "\0") * 2 not in line or self._dialect.is_as_written(line)

    def _fits(self, row: list[str]) -> bool:
        """Whether columns without white space have none here either."""
        if self._num_observed < _LEAST_OBSERVED:
            return True
        return all(len(row[at].split()) == 1 for at in self._words)

    def _are_lines_records(self) -> bool:
        """Whether each line is a record, as far as can be seen."""
        if self._num_with_newlines:
            return False
        sample: list[bool] = []
        while len(sample) < _SAMPLE_LINES and (line := self._peek(len(sample))) is not None:
            try:
                row = next(self._dialect.rows((decoded(line),)))
                is_one = not row or len(row) == self.num_fields
                sample.append(is_one and self._is_outside_quotes(decoded(line)))
            except csv.Error:
                sample.append(False)
        is_known = self._num_observed >= _MANY_RECORDS
        return sum(sample) >= (_LEAST_SHARE if is_known else _LINE_SHARE) * len(sample)

    def are_rows(self, lines: list[bytes]) -> bool:
        """Whether `lines`, within a quoted field, are more than twenty records in a table of which
        so many records held no newline: the quote is one too many."""
        if self.has_newlines or self._num_observed < _MANY_RECORDS or len(lines) < _MANY_RECORDS:
            return False
        return self.num_fields > 1 and all(map(self._is_row, lines))

    def _is_row(self, line: bytes) -> bool:
        try:
            row = next(self._dialect.rows((decoded(line),)))
        except csv.Error:
            return False
        return len(row) == self.num_fields and self._fits(row)

    def _peek(self, number: int) -> bytes | None:
        """The line that comes `number` lines after the next; None at the end or damage."""
        while len(self._pending) <= number:
            if None in islice(reversed(self._pending), 1) or self._pulled_to_pending() is None:
                return None
        return self._pending[number]

    def _pulled_to_pending(self) -> bytes | None:
        line = next(self._source, b"")
        if line == b"":
            return None
        self._pending.append(line)
        return line
