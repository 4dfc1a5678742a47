"""How the records of a CSV or TSV file are written: delimiter, quotes, escapes."""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

MAX_FIELDS = 4_000_000
"""Of a record: each is an object, even if it is empty."""
TOO_MANY_FIELDS = f"more than {MAX_FIELDS:,} fields"
_LIKELY_DELIMITERS = (",", "\t", ";", "|")


@dataclass(frozen=True)
class Dialect:
    """What separates and encloses fields."""

    delimiter: str
    quote: str | None = '"'
    """None where quotes are characters like others."""
    has_backslashes: bool = False
    """Whether a backslash makes a character of the one that follows it."""

    def without_separator_line(self, line: bytes) -> bytes:
        """The first line of a file; a blank one if it states the delimiter, as for Excel."""
        stated = line.removeprefix(b"\xef\xbb\xbf").strip(b"\r\n").strip(b'"')
        return b"\n" if stated == b"sep=" + self.delimiter.encode() else line

    def rows(self, lines: Iterable[str]) -> Any:
        """A reader of records, which is as strict as RFC 4180 on the characters after a quote."""
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quotechar=self.quote,
            quoting=csv.QUOTE_NONE if self.quote is None else csv.QUOTE_MINIMAL,
            escapechar="\\" if self.has_backslashes else None,
            strict=True,
        )

    def is_as_written(self, record: str) -> bool:
        """Whether a program may have written the record: every quote encloses a field, or is
        escaped. Files written by hand, or without quoting, have others too."""
        return self._as_written.fullmatch(record) is not None

    @cached_property
    def _as_written(self) -> re.Pattern[str]:
        delimiter, quote = re.escape(self.delimiter), re.escape(self.quote or "\0")
        backslash, escaped = (r"\\", r"|\\.") if self.has_backslashes else ("", "")
        quoted = rf"{quote}(?:[^{quote}{backslash}]++|{quote}{quote}{escaped})*+{quote}"
        bare = rf"(?:[^{quote}{delimiter}{backslash}\r\n]++{escaped})*+"
        return re.compile(
            rf"(?:{quoted}|{bare})(?:{delimiter}(?:{quoted}|{bare}))*+[\r\n]*+", re.DOTALL
        )

    def likely_delimiter(self, header: str, wanted: str) -> str | None:
        """Another delimiter by which the line `header` has a field named `wanted`."""
        for delimiter in _LIKELY_DELIMITERS:
            if delimiter != self.delimiter and delimiter in header:
                if header.strip().strip('"') == f"sep={delimiter}":
                    return delimiter
                names = [name.strip().strip('"') for name in header.strip().split(delimiter)]
                if wanted in names:
                    return delimiter
        return None


def decoded(line: bytes) -> str:
    """A line as text; bytes that are not UTF-8 become surrogates, which the reader finds later."""
    return line.decode("utf-8", "surrogateescape")


def reason_of(error: csv.Error) -> str:
    """The reason under which a record is counted that raised `error`."""
    is_too_long = "field limit" in str(error) or str(error) == TOO_MANY_FIELDS
    return "longer than max_document_mb" if is_too_long else "damaged quoting"
