"""Finds the records of web archives: from any cut, after damage, with every byte accounted for.

Between two records nothing lies but empty lines. What does is damage, counted by whoever reads the
record before it, wherever the file is cut::

    file   | record 0 | record 1 | reco??? 2 | \\0\\0\\0\\0 | record 3 |
    found  |  Record  |  Record  |   Lost    |   Lost   |  Record  |

A record is whole if its head has the fields that the standard demands, and if its content is
followed by the empty lines that end a record, the next one, or the end of the file. So a text about
archives is not taken for a record. Of a plain file, which may be cut anywhere, a record that holds
another such record is not whole: a gap between two records made it, or it is an archive of its own,
whose records are read.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from data_prep.readers.compression import DAMAGED_COMPRESSION
from data_prep.readers.content import Content
from data_prep.readers.files import Span
from data_prep.readers.streams import codec_of, content_head
from data_prep.readers.url_stream import expect
from data_prep.readers.warc_heads import HEAD_WITHOUT_END, Head, RecordFormat, format_of
from data_prep.readers.warc_window import Window, chunk_windows, plain_window, stream_windows

_EMPTY_LINES = re.compile(rb"[\r\n\t ]*")
_ZEROS = re.compile(rb"\0+")
_ANY = re.compile(b"")
_PROBE_BYTES = 1 << 14
_ZEROS_BETWEEN = "zeros between records"


class Record(NamedTuple):
    """A whole record."""

    offset: int
    """Where in the file it starts, or the compressed stream that holds it."""
    within: int
    """At which byte of the content of that stream it starts."""
    num_bytes: int
    """Its size with its head and the empty lines after it."""
    fields: dict[str, str]
    """The fields of its head by name, in lower case."""
    content: bytes | None
    """None if it is longer than allowed."""


class Lost(NamedTuple):
    """Bytes between records."""

    offset: int
    reason: str
    detail: str
    num_bytes: int
    """Of the file."""
    is_cut: bool = False
    """Whether the file ends here too early."""
    is_padding: bool = False
    """Zeros at the end of the file, after a whole record."""


def records_of(content: Content, span: Span, max_bytes: int) -> Iterator[Record | Lost]:
    """The records that start in `span`, and what is lost after each.

    The content of a record of more than `max_bytes` is not held.
    """
    raw, name = content.raw, span.file.name
    if content.is_plain:
        form = format_of(plain_window(raw, 0).head(_PROBE_BYTES), name)
        expect(raw, (max(span.start - 1, 0), span.end))
        window = plain_window(raw, span.start)
        scanner = _Scanner(window, form, max_bytes, span.end - window.offset)
        if span.start == 0 or scanner.find():
            yield from scanner.records()
    elif content.compression is not None and not content.is_member:
        codec = codec_of(raw, content.compression, _ANY)
        head = content_head(raw, codec, _PROBE_BYTES)
        form = format_of(head, name)
        codec = replace(codec, content_start=form.content_start)
        is_empty = span.start == 0 and not head
        for window in stream_windows(raw, codec, span):
            for found in _Scanner(window, form, max_bytes).records():
                is_empty = False
                yield found
            padding_bytes = span.file.num_bytes - window.raw_end
            if window.ends_file and padding_bytes:
                yield Lost(window.raw_end, "", "", padding_bytes, is_padding=True)
        if is_empty:
            yield Lost(0, "empty file", "", 0, is_cut=True)
    else:
        first_form = None
        for window in chunk_windows(content):
            form = first_form = first_form or format_of(window.head(_PROBE_BYTES), name)
            yield from _Scanner(window, form, max_bytes).records()


class _Scanner:
    """Finds the records of one sequence."""

    def __init__(
        self, window: Window, form: RecordFormat, max_bytes: int, end: int | None = None
    ) -> None:
        self._window, self._form, self._max_bytes = window, form, max_bytes
        self._end = end
        """Records of a plain file belong to the span in which they start: the byte of the content
        at which the next span starts."""
        self._wrong = ""
        """What is wrong with the last place at which no whole record starts."""
        self._truncated: int | None = None
        """Byte of the file at which the first record starts whose end is missing."""

    def records(self) -> Iterator[Record | Lost]:
        """The records, from the current position."""
        window = self._window
        while True:
            head = self._whole_head()
            if head is None:
                yield from self._gap()
                head = self._whole_head()
            if head is None or (self._end is not None and window.position >= self._end):
                return
            yield self._record(head)

    def find(self) -> bool:
        """Moves to the first whole record; False if none starts before the end of the span."""
        self._search(self._end)
        return self._end is None or self._window.position < self._end

    def _record(self, head: Head) -> Record:
        """Takes the whole record at the current position."""
        window, position = self._window, self._window.position
        window.at += head.num_bytes
        content = None
        if head.content_bytes <= self._max_bytes:
            content = window.data[window.at : window.at + head.content_bytes]
        window.skip(head.content_bytes)
        self._skip(_EMPTY_LINES)
        num_bytes = window.position - position
        if self._end is not None:
            return Record(window.offset + position, 0, num_bytes, head.fields, content)
        return Record(window.offset, position, num_bytes, head.fields, content)

    def _skip(self, pattern: re.Pattern[bytes]) -> None:
        window = self._window
        while window.fill(1):
            found = pattern.match(window.data, window.at)
            window.at = window.at if found is None else found.end()
            if window.at < len(window.data):
                return

    def _gap(self) -> Iterator[Lost]:
        """What lies before the next whole record or the end."""
        window = self._window
        while True:
            self._truncated = None
            if self._whole_head() is not None:
                return
            is_end = not window.fill(1)
            if is_end and window.error is None:
                return
            start = window.position
            raw_start = window.raw_at(start)
            if not is_end and window.data[window.at] == 0:
                self._skip(_ZEROS)
                self._skip(_EMPTY_LINES)
                num_bytes = window.raw_at(window.position) - raw_start
                is_padding = start > 0 and not window.fill(1) and window.error is None
                yield Lost(raw_start, _ZEROS_BETWEEN, "", num_bytes, False, is_padding)
                continue
            detail = self._wrong
            window.at += not is_end
            self._search(None)
            yield from self._damage(raw_start, detail)

    def _damage(self, start: int, detail: str) -> Iterator[Lost]:
        """What is lost from byte `start` of the file to the current position."""
        window, form = self._window, self._form
        if window.fill(1):
            end = window.raw_at(window.position)
            yield Lost(start, form.damaged, detail, end - start)
        elif window.error is not None:
            error, window.error = str(window.error), None
            lost_bytes = window.raw_end - start
            yield Lost(start, DAMAGED_COMPRESSION, error, lost_bytes, window.ends_file)
        elif self._truncated is None:
            yield Lost(start, form.damaged, detail, window.raw_end - start)
        else:
            if self._truncated > start:
                yield Lost(start, form.damaged, detail, self._truncated - start)
            lost_bytes = window.raw_end - self._truncated
            yield Lost(self._truncated, form.truncated, detail, lost_bytes, window.ends_file)

    def _search(self, end: int | None, head_of: Callable[[], Head | None] | None = None) -> None:
        """Moves to the next place where `head_of` finds a head (a whole record), or to the end."""
        head_of = head_of or self._whole_head
        window, start = self._window, self._form.start
        while end is None or window.position < end:
            found = start.search(window.data, window.at)
            if found is not None:
                window.at = found.start()
                if head_of() is not None:
                    return
                window.at += 1
                continue
            window.at = max(window.at, len(window.data) - self._form.start_bytes)
            if not window.fill(len(window.data) - window.at + 1):
                window.at = len(window.data)
                return

    def _whole_head(self) -> Head | None:
        """The head of the record that starts at the current position, if it is whole."""
        head = self._followed_head()
        if head is not None and self._holds_record(head):
            self._wrong = "another record starts within the content"
            return None
        return head

    def _holds_record(self, head: Head) -> bool:
        """Whether a record starts within the content of a record of a plain file."""
        window, form = self._window, self._form
        if window.again is None:
            return False
        start, end = head.num_bytes, head.num_bytes + head.content_bytes
        if head.content_bytes <= self._max_bytes:
            found = form.start.search(window.data, window.at + start, window.at + end)
            if found is None:
                return False
            start = found.start() - window.at
        inner = _Scanner(window.again(window.position + start), form, self._max_bytes)
        inner_end = window.offset + window.position + end - inner._window.offset
        inner._search(inner_end, inner._followed_head)
        return inner._window.position < inner_end

    def _followed_head(self) -> Head | None:
        """The head of the record that starts at the current position, if its content ends where
        its head says."""
        window, form = self._window, self._form
        window.fill(form.start_bytes)
        if not form.start.match(window.data, window.at):
            self._wrong = "no record starts here"
            if window.has_ended and form.is_cut_start(window.data[window.at :]):
                self._note_truncated()
            return None
        head = form.head(window)
        if isinstance(head, str):
            self._wrong = head
            if head == HEAD_WITHOUT_END and window.has_ended:
                self._note_truncated()
            return None
        return head if self._is_followed(head) else None

    def _is_followed(self, head: Head) -> bool:
        """Whether the content of a record ends where its head says."""
        window, form = self._window, self._form
        size = head.num_bytes + head.content_bytes
        if head.content_bytes <= self._max_bytes:
            window.fill(size + form.after_bytes)
            rest = window.data[window.at + size - 1 : window.at + size + form.after_bytes]
        elif window.again is not None:
            rest = window.again(window.position + size - 1).head(form.after_bytes + 1)
        elif window.fill(head.num_bytes + self._max_bytes + 1):
            return True
        else:
            rest = b""
        if not rest:
            self._wrong = f"the content has fewer bytes than its length, {head.content_bytes:,}"
            self._note_truncated()
            return False
        after = rest[1:]
        found = form.after_content.match(after)
        if found is not None and found.end() < len(after):
            return True
        ends = len(after) < form.after_bytes and not after.strip(b"\r\n\t ")
        if ends and (window.error is None or window.is_sound):
            return True
        self._wrong = "no record follows at the end of the content"
        return False

    def _note_truncated(self) -> None:
        if self._truncated is None and self._window.error is None:
            self._truncated = self._window.raw_at(self._window.position)
