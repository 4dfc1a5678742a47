"""Files of lines, compressed or not: cut into spans, and read line by line."""

import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import BinaryIO

from data_prep.readers.compressed_spans import compressed_spans
from data_prep.readers.compression import CHUNK_BYTES, Chunk, Damage
from data_prep.readers.content import Content, content_is_utf_8, kind_of
from data_prep.readers.document import BadRecords
from data_prep.readers.files import SourceFile, Span, byte_spans
from data_prep.readers.restarts import Passages, RestartFailedError, Sharing
from data_prep.readers.url_stream import expect


@dataclass(frozen=True)
class LineFiles:
    """How files of lines are cut and read; intact files give the same lines for any values."""

    chunk_bytes: int = CHUNK_BYTES
    """Bytes of a compressed file that are decompressed at once."""
    skipped_bytes: int = 1 << 20
    """Most bytes held of a line that is skipped."""
    encoding: str | None = None
    """Of the files, see `open_content`."""

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """Spans of about `part_bytes`; of a file that is not plain, see `compressed_spans`."""
        kind = kind_of(file, self.encoding)
        if kind.is_plain:
            return byte_spans(file, part_bytes)
        is_large = kind.compression is not None and file.num_bytes > 4 * part_bytes
        is_shared = is_large and content_is_utf_8(file, self.encoding)
        return compressed_spans(file, kind.compression, part_bytes, self.chunk_bytes, is_shared)

    def lines_in(
        self, content: Content, span: Span, bad: BadRecords, run_on: bool = False
    ) -> Iterator[tuple[int, bytes]]:
        """(offset, line with its newline) of every line that starts in `span`.

        With `run_on`, the lines after the span follow, if the file is plain. In other files,
        offsets count bytes of the content, a line starts in the span that holds the raw chunk of
        its first byte, and damage is counted by the span in which it is.
        """
        if content.is_plain:
            return self._plain_lines(content.raw, span, bad, run_on)
        sharing = span.sharing
        if sharing is None or not (sharing.restarts or sharing.next_restarts):
            expect(content.raw, (0, span.end))
            return _ChunkedLines(span, bad).lines(content.chunks(self.chunk_bytes))
        return self._shared_lines(content, span, sharing, bad)

    def _shared_lines(
        self, content: Content, span: Span, sharing: Sharing, bad: BadRecords
    ) -> Iterator[tuple[int, bytes]]:
        """The lines of a span of a compressed file, from the first restart that can be used."""
        place = span.file.path, span.start
        passages = Passages(sharing.next_restarts, span.file.path, bad.passed_restarts)
        for restart in sharing.restarts:
            expect(content.raw, (restart.raw_at, span.end))
            chunks = content.chunks_from(restart, passages, self.chunk_bytes)
            bad.used_restarts[place] = restart.raw_at, restart.offset
            try:
                yield from _ChunkedLines(span, bad, restart.offset).lines(chunks)
                return
            except RestartFailedError:  # before the first line
                del bad.used_restarts[place]
                passages.forget()
        expect(content.raw, (0, span.end))
        chunks = content.chunks_from(None, passages, self.chunk_bytes)
        yield from _ChunkedLines(span, bad).lines(chunks)

    def _plain_lines(
        self, stream: BinaryIO, span: Span, bad: BadRecords, run_on: bool
    ) -> Iterator[tuple[int, bytes]]:
        offset = span.start
        longest = bad.max_raw_bytes
        expect(stream, (max(0, span.start - 1), span.end))
        stream.seek(max(0, span.start - 1))
        if span.start > 0:
            offset = self._end_of_line(stream, span.start - 1, span.end)
        while run_on or offset < span.end:
            line = stream.readline(longest)
            if not line:
                return
            if len(line) == longest and not line.endswith(b"\n"):
                end = self._end_of_line(stream, offset + len(line), sys.maxsize)
                bad.add_too_long(span.file.path, offset, end - offset)
                offset = end
                continue
            yield offset, line
            offset += len(line)

    def _end_of_line(self, stream: BinaryIO, position: int, enough: int) -> int:
        """The end of the line in which `stream` is, at `position`; or a place in it at or after
        `enough`. Holds at most `skipped_bytes`."""
        while position < enough:
            rest = stream.readline(self.skipped_bytes)
            position += len(rest)
            if not rest or rest.endswith(b"\n"):
                break
        return position


class _State(Enum):
    """How the content read so far ends."""

    BETWEEN_LINES = auto()
    """With a newline, or it is empty."""
    IN_LINE = auto()
    """Inside a line of the span, whose start is held."""
    IN_SKIPPED_LINE = auto()
    """Inside a line that is not given: it started before the span."""
    IN_LONG_LINE = auto()
    """Inside a line of the span that is too long to be held; it is counted at its end."""


class _ChunkedLines:
    r"""Joins the lines of one span from the decompressed chunks of the whole file.

    A line belongs to the span that holds the chunk of its first byte::

        raw chunk     |0         |1          |2         |3         |
        content       |one\ntw   |o\nthree\n |four\nfi  |ve\nsix\n |
        span [0, 1)    one  two
        span [1, 3)                three      four  five
        span [3, 4)                                         six

    So span [0, 1) reads chunk 1 up to the first newline (it gets there IN_LINE), and span [1, 3)
    skips to this newline (it is IN_SKIPPED_LINE after chunk 0).

    Where reading starts at a restart, not at the start of the file, it is not known how the content
    before that ends, until a newline is seen.
    """

    def __init__(self, span: Span, bad: BadRecords, restart_offset: int | None = None) -> None:
        """`restart_offset` is the offset of the content at which reading starts, if this is not
        the start of the file."""
        self._span, self._bad = span, bad
        self._state = _State.BETWEEN_LINES
        self._is_restarted = restart_offset is not None
        self._is_lost = self._is_restarted
        """Whether the state is not known."""
        self._offset = restart_offset or 0
        """Of the held line or, if none is held, of the next byte: decompressed bytes."""
        self._held: list[bytes] = []
        """The line without its end, in pieces, in state IN_LINE."""
        self._long_at = 0
        """Where the line starts, in state IN_LONG_LINE."""

    def lines(self, chunks: Iterator[Chunk]) -> Iterator[tuple[int, bytes]]:
        """(offset, line) of every line that starts in the span; reads `chunks` as far as needed.
        Raises RestartFailedError, before the first line, if the restart cannot be used."""
        first_at: int | None = None
        for chunk in chunks:
            is_after_span = chunk.raw_at >= self._span.end
            is_before_span = chunk.raw_at < self._span.start
            first_at = chunk.raw_at if first_at is None else first_at
            if is_before_span and chunk.error is not None and self._is_claim(chunk, first_at):
                raise RestartFailedError
            if self._is_lost and not is_before_span:
                raise RestartFailedError
            if chunk.error is not None:
                self._count_damage(chunk.raw_at, chunk.error, is_after_span)
                if is_after_span:
                    return
                continue
            if is_after_span and self._state not in (_State.IN_LINE, _State.IN_LONG_LINE):
                return
            if not chunk.content:
                continue
            if is_before_span:
                self._skip(chunk.content)
                continue
            find_newline = chunk.content.find if is_after_span else chunk.content.rfind
            end = find_newline(b"\n") + 1
            if end:
                yield from self._finished_lines(chunk.content[:end])
                if is_after_span:
                    return
            self._hold(chunk.content[end:], had_newline=end > 0)
        if self._state is _State.IN_LINE:
            yield self._offset, b"".join(self._held)
        self._count_long_line()

    def _is_claim(self, chunk: Chunk, first_at: int) -> bool:
        """Whether the sequential reader may find the damage of `chunk` elsewhere.

        From a restart that is confirmed, this is so in the first chunk only, at `first_at`: damage
        takes what the chunk holds before the restart, too.
        """
        sharing = self._span.sharing
        is_confirmed = sharing is not None and sharing.is_confirmed
        return self._is_restarted and not (is_confirmed and chunk.raw_at > first_at)

    def _count_long_line(self) -> None:
        """Counts the line that is too long, if there is one, which ends here."""
        if self._state is _State.IN_LONG_LINE:
            num_bytes = self._offset - self._long_at
            self._bad.add_too_long(self._span.file.path, self._long_at, num_bytes)

    def _count_damage(self, raw_at: int, damage: Damage, is_after_span: bool) -> None:
        """Counts damage in the one span that it belongs to; the line that it interrupts is lost."""
        self._offset += sum(map(len, self._held))
        self._count_long_line()
        self._state, self._held, self._is_lost = _State.BETWEEN_LINES, [], False
        # A truncated file ends after its last byte: only the last span can count that.
        is_ours = not is_after_span or self._span.end >= self._span.file.num_bytes
        if raw_at >= self._span.start and is_ours:
            damage.count(self._bad, self._span.file.path, self._offset)

    def _skip(self, content: bytes) -> None:
        """Takes note of `content` before the span."""
        self._offset += len(content)
        self._is_lost = self._is_lost and b"\n" not in content
        ends_line = content.endswith(b"\n")
        self._state = _State.BETWEEN_LINES if ends_line else _State.IN_SKIPPED_LINE

    def _finished_lines(self, content: bytes) -> Iterator[tuple[int, bytes]]:
        """The lines that end in `content`, which ends with a newline."""
        lines = io.BytesIO(b"".join((*self._held, content)))
        if self._state in (_State.IN_SKIPPED_LINE, _State.IN_LONG_LINE):
            self._offset += len(lines.readline())
        self._count_long_line()
        self._state, self._held = _State.BETWEEN_LINES, []
        for line in lines:
            yield self._offset, line
            self._offset += len(line)

    def _hold(self, content: bytes, had_newline: bool) -> None:
        """Keeps `content`, the start or the middle of a line, unless that line is skipped.

        A line is too long if a chunk without a newline (`had_newline` false) makes it so.
        """
        if self._state in (_State.IN_SKIPPED_LINE, _State.IN_LONG_LINE):
            self._offset += len(content)
            return
        if not content:
            return
        self._held.append(content)
        self._state = _State.IN_LINE
        num_bytes = sum(map(len, self._held))
        if not had_newline and num_bytes >= self._bad.max_raw_bytes:
            self._long_at = self._offset
            self._offset += num_bytes
            self._state, self._held = _State.IN_LONG_LINE, []
