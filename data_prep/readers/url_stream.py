"""A file at a URL as a stream that reads ahead where it is known what will be read.

A reader says which ranges it expects to read (`expect`). Within them, blocks are fetched ahead and
several at a time; elsewhere, what is asked for and a little more::

    file       |......................................................|
    expected                  [-----------------------)
    requests   |head|         |b0|b1 |b2    |b3       ||rest of a line|
"""

import io
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any, BinaryIO

from data_prep.dataset.url_files import BLOCK_BYTES, Read, ReadAhead, UrlError, blocks_of

_SMALL_FILE_BYTES = 1 << 20
"""A file that is fetched by one request."""
_LEAST_BYTES = _GAP_BYTES = 1 << 16
"""The first request outside of the expected ranges; ranges with such a gap are fetched as one."""
_NEAR_BYTES = 1 << 20
"""How far back a reader may go without losing the last block and those that are fetched ahead."""
_MOST_HELD_BYTES = BLOCK_BYTES + _NEAR_BYTES
"""Of the last block and what precedes it, however often a reader goes back."""


class UrlStream(io.RawIOBase):
    """The bytes of a file of a known size; reads may give fewer bytes than asked for."""

    def __init__(self, read: Read, num_bytes: int) -> None:
        self._read, self._num_bytes = read, num_bytes
        self._at = 0
        self._ranges: list[tuple[int, int]] = []
        self._ahead: ReadAhead | None = None
        self._held_at, self._held = 0, b""
        """The last block."""
        self._step_bytes = 0
        """What the last request asked for, if it was outside of the ranges; it doubles."""
        self.failure: UrlError | None = None
        """Why bytes could not be read."""

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Prepares for reads of `ranges` in ascending order, in place of those before."""
        self._end_ahead()
        self._ranges = []
        for start, end in sorted(ranges):
            end = min(end, self._num_bytes)
            if self._ranges and start - self._ranges[-1][1] <= _GAP_BYTES:
                first, last = self._ranges[-1]
                self._ranges[-1] = first, max(last, end)
            elif start < end:
                self._ranges.append((start, end))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._num_bytes}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._at >= self._num_bytes:
            return 0
        if not self._held_at <= self._at < self._held_at + len(self._held):
            try:
                self._hold()
            except UrlError as error:
                self.failure = error
                raise
        begin = self._at - self._held_at
        num_bytes = min(len(buffer), len(self._held) - begin)
        buffer[:num_bytes] = memoryview(self._held)[begin : begin + num_bytes]
        self._at += num_bytes
        return num_bytes

    def close(self) -> None:
        self._end_ahead()
        super().close()

    def _end_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def _hold(self) -> None:
        """Fetches the block with the byte at which the stream is."""
        at, held_end = self._at, self._held_at + len(self._held)
        if self._held_at - _NEAR_BYTES <= at < self._held_at:
            before = self._read(at, self._held_at)
            self._held_at, self._held = at, (before + self._held)[:_MOST_HELD_BYTES]
        else:
            block = self._from_ahead(at) or self._step(at, follows=at == held_end)
            self._held_at, self._held = block

    def _from_ahead(self, at: int) -> tuple[int, bytes] | None:
        """The block with byte `at`, if that is expected and not just before what is under way."""
        number = bisect_right(self._ranges, at, key=lambda ends: ends[0]) - 1
        if number < 0 or at >= self._ranges[number][1]:
            return None
        ahead = self._ahead
        if ahead is not None and ahead.start is not None:
            if ahead.start - _NEAR_BYTES <= at < ahead.start:
                return None
            self._step_bytes = 0
            while ahead.start is not None and ahead.start <= at < ahead.end:
                start, content = ahead.take()
                if at < start + len(content):
                    return start, content
        self._end_ahead()
        self._step_bytes = 0
        self._ahead = ReadAhead(self._read, blocks_of(self._ranges[number:], at))
        return self._ahead.take()

    def _step(self, at: int, follows: bool) -> tuple[int, bytes]:
        """A block from byte `at` that is not expected, or that goes back to what was."""
        doubled = min(2 * self._step_bytes, BLOCK_BYTES) if follows else 0
        self._step_bytes = max(doubled, _LEAST_BYTES)
        ends = [at + self._step_bytes, self._num_bytes]
        if self._num_bytes <= _SMALL_FILE_BYTES:
            ends = [self._num_bytes]
        ends += [start for start, _ in self._ranges if start > at][:1]
        if self._ahead is not None and self._ahead.start is not None and self._ahead.start > at:
            ends.append(self._ahead.start)
        return at, self._read(at, min(ends))


def expect(stream: BinaryIO | io.BufferedIOBase, *ranges: tuple[int, int]) -> None:
    """Says which ranges of a file will be read, in ascending order. Of use for URLs only."""
    raw = getattr(stream, "raw", None)
    if isinstance(raw, UrlStream):
        raw.expect(ranges)
