"""The content of web archives as windows: what was read of an uninterrupted sequence of records."""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import BinaryIO

from data_prep.readers.compression import CHUNK_BYTES
from data_prep.readers.content import Content
from data_prep.readers.files import Span
from data_prep.readers.streams import Codec, Piece, pieces_from
from data_prep.readers.url_stream import expect

_PLAIN_PIECE_BYTES = 1 << 20


class Window:
    """Content of a sequence of records, from the first byte that is not used yet.

    A sequence is a whole plain file, or the content of compressed streams from one at which reading
    can start to the next such stream, or to damage.
    """

    def __init__(
        self,
        pieces: Iterator[Piece],
        offset: int,
        again: "Callable[[int], Window] | None" = None,
    ) -> None:
        self._pieces = pieces
        self.offset = offset
        """Byte of the file at which the sequence starts."""
        self.again = again
        """Another window, from a byte of the content on, where the file can be sought."""
        self.data = b""
        self.at = 0
        """Position in `data` of the first byte that is not used."""
        self._data_at = 0
        self.has_ended = False
        self.ends_file = False
        """Whether the file ends, or is cut, where the sequence ends."""
        self.error: Exception | None = None
        """Damage that ends the sequence."""
        self.is_sound = True
        """Whether all that was read is known to be as it was written: the damage, if there is any,
        is that of a later stream."""
        self.raw_end = offset
        """The byte of the file after the last one that was read, or that is lost by `error`."""
        self._content_ends, self._raw_ends = [0], [offset]

    @property
    def position(self) -> int:
        """Byte of the content of the sequence that is at `at`."""
        return self._data_at + self.at

    def fill(self, num_bytes: int) -> bool:
        """Reads until `num_bytes` are available from `at`; False if there are fewer."""
        available = len(self.data) - self.at
        if available >= num_bytes:
            return True
        if self.has_ended:
            return False
        wanted = max(num_bytes, available + available // 4)  # copied a few times at most
        before = min(self.at, 1)  # whether a line starts at `at` stays visible
        parts = [self.data[self.at - before :]]
        while available < wanted and (content := self._next()) is not None:
            parts.append(content)
            available += len(content)
        self._data_at, self.at = self.position - before, before
        self.data = b"".join(parts)
        return available >= num_bytes

    def head(self, num_bytes: int) -> bytes:
        """The next `num_bytes`, which are not used; fewer if it ends before."""
        self.fill(num_bytes)
        return self.data[self.at : self.at + num_bytes]

    def skip(self, num_bytes: int) -> bool:
        """Moves `num_bytes` on, without holding them; False if there are fewer."""
        while len(self.data) - self.at < num_bytes:
            num_bytes -= len(self.data) - self.at
            self._data_at, self.at, self.data = self._data_at + len(self.data), 0, b""
            content = self._next()
            if content is None:
                return False
            self.data = content
        self.at += num_bytes
        return True

    def raw_at(self, position: int) -> int:
        """The byte of the file that holds byte `position` of the content, about: exact at the start
        and end of a compressed stream. Not for bytes before those that are held."""
        if position == 0:
            return self.offset
        number = bisect_right(self._content_ends, position)
        if number == len(self._content_ends):
            return self._raw_ends[-1]
        start, end = self._content_ends[max(number - 1, 0)], self._content_ends[number]
        raw_start, raw_end = self._raw_ends[max(number - 1, 0)], self._raw_ends[number]
        return raw_start + (position - start) * (raw_end - raw_start) // (end - start)

    def _next(self) -> bytes | None:
        piece = None if self.has_ended else next(self._pieces, None)
        if piece is None or piece.error is not None:
            self.has_ended = True
        if piece is None:
            return None
        self.ends_file, self.raw_end, self.error = piece.ends_file, piece.raw_end, piece.error
        if piece.error is not None:
            return None
        if piece.content or piece.ends_stream:
            self.is_sound = piece.ends_stream
        if len(self._content_ends) > 64 and self._content_ends[32] <= self._data_at:
            del self._content_ends[:32], self._raw_ends[:32]
        self._content_ends.append(self._content_ends[-1] + len(piece.content))
        self._raw_ends.append(piece.raw_end)
        return piece.content


def stream_windows(raw: BinaryIO, codec: Codec, span: Span) -> Iterator[Window]:
    """The sequences of a compressed file that start in `span`."""
    pieces = pieces_from(raw, codec, span.start, span.end)
    for stream_at, sequence in groupby(pieces, key=lambda piece: piece.stream_at):
        if stream_at >= max(span.end, 1):
            return
        yield Window(sequence, stream_at)


def chunk_windows(content: Content) -> Iterator[Window]:
    """The sequences of content that one reader reads from its start."""
    expect(content.raw, (0, content.file.num_bytes))
    chunks = content.chunks()
    offset = 0
    is_more = True

    def pieces() -> Iterator[Piece]:
        nonlocal offset, is_more
        raw_end = offset
        for chunk in chunks:
            error = chunk.error
            if error is not None:
                lost_to = raw_end + error.lost_bytes
                yield Piece(0, b"", error.is_cut, error, raw_end, lost_to)
                offset = chunk.raw_at + error.lost_bytes
                return
            read = CHUNK_BYTES if content.compression else len(chunk.content)
            raw_end = min(chunk.raw_at + read, content.file.num_bytes)
            # The content of a chunk is given only if it is sound.
            yield Piece(0, chunk.content, True, None, chunk.raw_at, raw_end, True)
        is_more = False

    while is_more:
        yield Window(pieces(), offset)


def plain_window(raw: BinaryIO, start: int) -> Window:
    """The content of a plain file from byte `start`; that of the window is one byte before it, if
    there is one."""
    first = max(start - 1, 0)

    def pieces() -> Iterator[Piece]:
        at = first
        while True:
            raw.seek(at)
            content = raw.read(_PLAIN_PIECE_BYTES)
            if not content:
                return
            yield Piece(0, content, True, None, at, at + len(content), True)
            at += len(content)

    window = Window(pieces(), first, lambda position: plain_window(raw, first + position))
    window.skip(start - first)
    return window
