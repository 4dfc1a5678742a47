"""Where decompression of a file can start again, and how the spans of a file make use of it.

A restart is a claim: a byte at which an independent part of the file (member, frame, block) starts,
and the size of the content before it, both from what the file says of itself. The reader of a span
starts at the last restart before it. Whoever reads the span before passes that byte anyway, and
notes what he found there::

    parts of the file  |part 0   |part 1   |part 2   |part 3   |
    spans              [---- span 0 ----)[---- span 1 ---------)
    span 0 reads       ------------------
    span 1 reads                 -------------------------------   it restarts at part 1

Span 0 finds the start of part 1, and whether as much content precedes it as was claimed. If not, as
after damage, or where a magic number occurred by chance, span 1 is read once more, see
`data_prep.documents.restarted`.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from data_prep.readers.kinds import Compression


class XzRest(NamedTuple):
    """The rest of an xz stream, from the start of one of its blocks."""

    header: bytes
    """The header of the stream."""
    blocks_end: int
    """Byte of the file at which its last block ends."""
    stream_end: int
    """Byte of the file at which the stream ends, after its index and footer."""
    content_before: int
    """What its blocks before decompress to, bytes; more than none."""
    content_after: int
    """What the rest of its blocks decompress to, bytes."""
    end_mark_at: int
    """Byte of the file at which the data of the block before ends: a zero."""
    last_mark_at: int
    """That of the last block."""


class Restart(NamedTuple):
    """A byte of a compressed file at which decompression can start."""

    raw_at: int
    offset: int
    """Bytes of the content before it."""
    xz: XzRest | None = None
    """What is needed to start at a block within an xz stream."""


class Sharing(NamedTuple):
    """How one span of a compressed file is read without all that precedes it."""

    compression: Compression
    restarts: tuple[Restart, ...] = ()
    """Where its reader can start, the last one first; the start of the file is always possible."""
    next_restarts: tuple[Restart, ...] = ()
    """Those of the next span, which the reader of this one passes."""
    is_confirmed: bool = False
    """Whether the restarts are known to hold, from those who passed them."""


class RestartFailedError(Exception):
    """The content between a restart and its span has no end of a line; or it is damaged, and the
    restart is not confirmed."""


class Passages:
    """Notes the restarts that are passed while a file is decompressed."""

    def __init__(
        self, restarts: Iterable[Restart], path: str, found: dict[tuple[str, int], int]
    ) -> None:
        """`found` receives the size of the content before each, by path and byte of the file."""
        restarts = sorted(restarts, key=lambda restart: restart.raw_at)
        self._watched = {restart.raw_at for restart in restarts if restart.xz is None}
        self.blocks = [restart for restart in restarts if restart.xz is not None]
        """Those within xz streams."""
        self._path, self._found = path, found

    def at_member(self, raw_at: int, offset: int) -> None:
        """A member starts at the byte `raw_at`, `offset` bytes of content precede it."""
        if raw_at in self._watched:
            self._found[self._path, raw_at] = offset

    def forget(self) -> None:
        """Drops what was noted, as the file is read once more, from another place."""
        for raw_at in (*self._watched, *(restart.raw_at for restart in self.blocks)):
            self._found.pop((self._path, raw_at), None)

    def at_block(self, raw_at: int, offset: int) -> None:
        """A block within an xz stream starts at the byte `raw_at`."""
        self._found[self._path, raw_at] = offset


def thinned(restarts: Iterable[Restart], spacing: int) -> Iterator[Restart]:
    """Restarts without those within `spacing` bytes after the start of the file or another one."""
    last = 0
    for restart in restarts:
        if restart.raw_at >= last + spacing:
            last = restart.raw_at
            yield restart


def longest_part(restarts: Sequence[Restart], num_bytes: int) -> int:
    """The longest part of a file of `num_bytes`, bytes of the file."""
    starts = [0, *(restart.raw_at for restart in restarts), num_bytes]
    return max(end - start for start, end in pairwise(starts))


def restarts_between(restarts: Sequence[Restart], start: int, end: int) -> tuple[Restart, ...]:
    """Some of the restarts in [start, end), the last one first, at distances that double: the first
    one after which a line ends before `end` is used."""
    inside = [restart for restart in restarts if start <= restart.raw_at < end]
    places = (len(inside) - (1 << power) for power in range(len(inside).bit_length()))
    return tuple(inside[place] for place in places if place >= 0)
