r"""The records of JSON files that are not lines: arrays, pretty-printed and concatenated objects.

    [{"text": "one"}, {"text": "two"}]          an array, on one line or many
    {"text": "one"}{"text": "two"}              one after another
    {                                           pretty-printed
      "text": "one"
    }

The end of a record is found by its brackets. Where what they enclose is not JSON, as after a
missing quote, the next record is looked for where one may start: at ``{"`` after ``}`` or a new
line.
"""

import codecs
import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import Any, NamedTuple

from data_prep.readers.compression import Chunk, Damage
from data_prep.readers.document import BadRecords
from data_prep.readers.json_parser import (
    CUT_RECORD,
    MAX_VALUES,
    NOT_JSON,
    parse_json,
    wrapper_reason,
)

_SEPARATORS = re.compile(rb"[\s,\x1e]*+")
"""What may stand between records; 0x1e starts each in RFC 7464's sequences."""
_VALUE_STARTS = (b"{", b"[", b'"')
_MARK = re.compile(rb'["{}\[\]]')
_IN_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_SCALAR = re.compile(rb'[^\s,{}\[\]"]*+')
_NEXT_RECORD = re.compile(rb'(?:\}\s{0,200}+,?\s{0,200}+|\n[ \t]{0,200}+)(?=\{\s{0,200}+["}])')
_WARY_BYTES, _FEWEST_BYTES = 1 << 20, 1 << 12
"""After something that is not JSON, how far the end of a record is looked for, unless longer ones
were read. Otherwise each of many records without an end would cost reading the rest of the file."""
_OVERLAP_BYTES = 1 << 10
"""More than `_NEXT_RECORD` and scalars take."""
_WRAPPER = re.compile(rb'\{\s*"([^"\\]{1,100})"\s*:\s*\[\s*\{')


class Layout(Enum):
    """How the records of a JSON file are laid out."""

    LINES = auto()
    """One on each line: the file can be cut anywhere."""
    VALUES = auto()
    """Otherwise: the file is read from its start."""


def layout_of(head: bytes, is_whole: bool) -> Layout | None:
    """The layout of a file that starts with `head`; None if more of it is needed.

    `is_whole` says that the file ends there. A file whose first line is damaged, but not the
    lines after it, has lines.
    """
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n,\x1e")
    if not head and not is_whole:
        return None
    if not head.startswith((b"{", b"[")):
        return Layout.LINES
    if head.startswith(b"["):
        return Layout.VALUES
    end = _ValueScanner().end_of_value(head, len(head))
    if b"\n" in head[:end]:
        has_whole_line = re.search(rb'\n\{"[^\n]*\}\r?\n', head) is not None
        return Layout.LINES if has_whole_line else Layout.VALUES
    following = b"" if end is None else head[end:].lstrip(b" \t\r,\x1e")[:1]
    if not following and not is_whole:
        return None
    return Layout.VALUES if following in (b"{", b"[") else Layout.LINES


class JsonRecord(NamedTuple):
    """A value of a file."""

    offset: int
    raw: bytes
    value: Any
    is_unicode: bool
    """Whether the value is known to hold no surrogates."""


class _ValueScanner:
    """Finds the end of a value in content that comes in pieces."""

    def __init__(self) -> None:
        self._depth = self._searched = 0
        self._in_string = False

    def end_of_value(self, content: bytes | bytearray, most_bytes: int) -> int | None:
        """The end of the value (object, array or string) at the start of `content`, if it is within
        `most_bytes`; None if it is not there yet: called again with more content, the search
        continues."""
        at, size = self._searched, min(len(content), most_bytes)
        while at < size:
            if self._in_string:
                found = _IN_STRING.match(content, at, size)
                at = found.end() if found else at
                if (
                    at >= size or content[at : at + 1] != b'"'
                ):  # a lone backslash, or no more content
                    break
                self._in_string = False
                at += 1
            else:
                mark = _MARK.search(content, at, size)
                at = mark.end() if mark else size
                if mark is None:
                    break
                if mark[0] == b'"':
                    self._in_string = True
                    continue
                self._depth += 1 if mark[0] in b"{[" else -1
            if self._depth <= 0:
                return at
        self._searched = at
        return None


class JsonValues:
    """The records of one file."""

    def __init__(
        self, chunks: Iterator[Chunk], path: str, bad: BadRecords, is_plain: bool = True
    ) -> None:
        """`is_plain` says that bytes of the content are bytes of the file."""
        self._is_plain = is_plain
        self._chunks, self._path, self._bad = chunks, path, bad
        self._held = bytearray()
        """Content that is not finished with."""
        self._offset = 0
        """Of the first byte that is held."""
        self._in_array = False
        self._damage: Damage | None = None
        """Where the content that was read ends."""
        self._num_failures = self._longest = 0
        """How many values in a row are not JSON; the longest that is."""

    def records(self) -> Iterator[JsonRecord]:
        """The records; what is not JSON, and damage, is counted."""
        while len(self._held) < len(codecs.BOM_UTF8) and self._more():
            continue
        self._drop(len(codecs.BOM_UTF8) if self._held.startswith(codecs.BOM_UTF8) else 0)
        yield from self._whole_records()
        while self._damage is not None:
            damage, self._damage = self._damage, None
            self._drop(len(self._held))
            damage.count(self._bad, self._path, self._offset)
            self._in_array = self._in_array and not damage.is_cut
            while not self._held and self._more():
                continue
            if not self._held.startswith(b"{"):
                self._skip_to_record(is_cut=False)
            yield from self._whole_records()
        if self._in_array:
            self._bad.add_cut(self._path, self._offset, "the file ends inside an array")

    def _whole_records(self) -> Iterator[JsonRecord]:
        """The records up to the next damage."""
        while self._is_at_record():
            end = self._end_of_value()
            if end is None and self._damage is not None:
                return
            if end is None:
                if not self._skip_wrapper():
                    self._skip_to_record(is_cut=True)
                continue
            offset, raw = self._offset, bytes(self._held[:end])
            try:
                is_skipped = self._bad.has_too_many(raw, b",{[", MAX_VALUES, self._path, offset)
                parsed = (None, True) if is_skipped else parse_json(raw)
            except ValueError:
                self._skip_to_record(is_cut=False)
                continue
            self._num_failures, self._longest = 0, max(self._longest, end)
            self._drop(end)
            if not is_skipped:
                yield JsonRecord(offset, raw, *parsed)

    def _more(self) -> bool:
        """Reads on; whether there was more content before the end or damage."""
        chunk = None if self._damage is not None else next(self._chunks, None)
        if chunk is None or chunk.error is not None:
            self._damage = chunk.error if chunk else self._damage
            return False
        self._held += chunk.content
        return True

    def _drop(self, num_bytes: int) -> None:
        del self._held[:num_bytes]
        self._offset += num_bytes

    def _is_at_record(self) -> bool:
        """Passes what separates records; whether there is another one."""
        while True:
            separators = _SEPARATORS.match(self._held)
            self._drop(separators.end() if separators else 0)
            if self._held.startswith(b"]" if self._in_array else b"["):
                self._in_array = not self._in_array
                self._drop(1)
            elif self._held:
                return True
            elif not self._more():
                return False

    def _end_of_value(self) -> int | None:
        """The end of the value that starts here; None if it has none, or is too long."""
        end: int | None
        if self._held.startswith(_VALUE_STARTS):
            scanner, most_bytes = _ValueScanner(), self._most_bytes()
            while (end := scanner.end_of_value(self._held, most_bytes)) is None:
                if len(self._held) >= most_bytes or not self._more():
                    return None
            return end
        while True:
            scalar = _SCALAR.match(self._held)
            end = scalar.end() if scalar else 0
            if end < len(self._held) or end >= _OVERLAP_BYTES or not self._more():
                return end

    def _most_bytes(self) -> int:
        """How long a value may be: after the first, second, fourth, ... failure in a row much
        longer than those that were read."""
        failures = self._num_failures
        if not failures:
            return self._bad.max_raw_bytes
        is_power_of_two = failures & (failures - 1) == 0
        fewest = _WARY_BYTES if is_power_of_two else _FEWEST_BYTES
        return min(max(fewest, 2 * self._longest), self._bad.max_raw_bytes)

    def _skip_to_record(self, is_cut: bool) -> None:
        """Skips to where the next record may start; counts what is skipped. `is_cut` says that it
        is the end of a cut file if no record starts any more."""
        self._num_failures += 1
        start, searched, is_end = self._offset, 1, False
        is_too_long = False
        while (found := _NEXT_RECORD.search(self._held, searched)) is None and not is_end:
            searched = max(1, len(self._held) - _OVERLAP_BYTES)
            if len(self._held) > self._bad.max_raw_bytes:
                is_too_long = True
                self._drop(searched - 1)
                searched = 1
            is_end = not self._more()
        raw = bytes(self._held[: found.end() if found else len(self._held)])
        self._drop(len(raw))
        num_bytes = self._offset - start
        if is_too_long:
            self._bad.add_too_long(self._path, start, num_bytes)
        elif found is None and is_cut and self._damage is None:
            self._bad.add_cut_record(self._path, start, CUT_RECORD, "", num_bytes, self._is_plain)
            self._in_array = False
        elif num_bytes:
            self._bad.add_undecoded(self._path, start, NOT_JSON, raw)

    def _skip_wrapper(self) -> bool:
        """Whether the whole file is one object that holds the records in an array: if so, counts
        it. Its end is missing, or it is too long to be held."""
        wrapper = _WRAPPER.match(self._held)
        if wrapper is None or self._offset > _OVERLAP_BYTES:
            return False
        start, reason = self._offset, wrapper_reason(bytes(wrapper[1]).decode("utf-8", "replace"))
        self._drop(len(self._held))
        while self._more():
            self._drop(len(self._held))
        self._bad.add(self._path, start, reason, num_bytes=self._offset - start)
        return True


def concatenated(line: bytes) -> list[JsonRecord]:
    """The records of a line that are not separated by newlines; none if anything else is in it."""
    bad = BadRecords("skip")
    records = list(JsonValues(iter([Chunk(0, line)]), "", bad).records())
    return [] if bad.counts else records
