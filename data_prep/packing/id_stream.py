"""The ids of encoded documents as long streams, from which rows are cut.

A stream contains document d's ids, ``</s>``, document d + 1's ids, ``</s>``, ... There is one for
each split and source or, interleaved, one for each split.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

_MAX_OPEN_FILES = 500
I64 = npt.NDArray[np.int64]


class Segment(NamedTuple):
    """A range of a stream that one file holds."""

    name: str
    """Of the file, without suffix."""
    documents: int
    tokens: int
    """Ids without the separators."""

    @property
    def ids(self) -> int:
        """Ids with a separator after each document."""
        return self.documents + self.tokens


def _positions(segments: Sequence[Segment]) -> tuple[I64, I64]:
    """The number of the first document, and of the first id, of each segment and of the end."""
    documents = np.cumsum([segment.documents for segment in segments], dtype=np.int64)
    ids = np.cumsum([segment.ids for segment in segments], dtype=np.int64)
    return np.append(0, documents), np.append(0, ids)


class IdStream(Protocol):
    """A stream of ids, read by position."""

    def read(self, start: int, end: int) -> npt.NDArray[Any]:
        """The ids [start, end) of the stream, as far as it goes."""

    def gather(self, starts: I64, lengths: I64) -> npt.NDArray[Any]:
        """The ids of pieces, each inside a document, one after another."""

    def documents(self, first: int, end: int) -> tuple[I64, I64]:
        """(lengths, positions in the stream) of the documents [first, end)."""


def spread(starts: I64, lengths: I64) -> I64:
    """The positions [start, start + length) of each piece, one piece after another."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


class SourceStream:
    """The documents of one source and split, in their order, in the files of the encode stage."""

    def __init__(self, folder: Path, segments: Sequence[Segment], dtype: str) -> None:
        self._folder = folder
        segments = [segment for segment in segments if segment.documents]
        self._names = [segment.name for segment in segments]
        self._first_document, self._first_id = _positions(segments)
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._open: dict[int, npt.NDArray[Any]] = {}

    def read(self, start: int, end: int) -> npt.NDArray[Any]:
        """The ids [start, end) of the stream, as far as it goes."""
        pieces = [np.empty(0, self._dtype)]
        first = int(np.searchsorted(self._first_id, start, side="right")) - 1
        for part in range(first, len(self._names)):
            part_start = self._first_id[part]
            if part_start >= end:
                break
            low = max(start - part_start, 0)
            high = min(end, self._first_id[part + 1]) - part_start
            path = self._folder / f"{self._names[part]}.ids"
            offset = int(low) * self._dtype.itemsize
            pieces.append(np.fromfile(path, self._dtype, int(high - low), offset=offset))
        return pieces[1] if len(pieces) == 2 else np.concatenate(pieces)

    def gather(self, starts: I64, lengths: I64) -> npt.NDArray[Any]:
        """The ids of pieces, each inside a document, one after another."""
        result = np.empty(int(lengths.sum()), self._dtype)
        places = np.cumsum(lengths) - lengths
        part_of = np.searchsorted(self._first_id, starts, side="right") - 1
        for part in np.unique(part_of[lengths > 0]).tolist():
            mine = np.flatnonzero(part_of == part)
            where = spread(starts[mine] - self._first_id[part], lengths[mine])
            result[spread(places[mine], lengths[mine])] = self._ids(part)[where]
        return result

    def _ids(self, part: int) -> npt.NDArray[Any]:
        if part not in self._open:
            if len(self._open) >= _MAX_OPEN_FILES:
                del self._open[next(iter(self._open))]
            path = self._folder / f"{self._names[part]}.ids"
            self._open[part] = np.asarray(np.memmap(path, self._dtype, mode="r"))
        return self._open[part]

    def documents(self, first: int, end: int) -> tuple[I64, I64]:
        """(lengths, positions in the stream) of the documents [first, end)."""
        lengths, starts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for part, (part_first, part_end) in enumerate(pairwise(self._first_document)):
            if part_first < end and part_end > first:
                path = self._folder / f"{self._names[part]}.lengths.npy"
                # the stream may end before the file does, see `max_tokens`
                here = np.load(path)[: part_end - part_first].astype(np.int64)
                where = self._first_id[part] + np.cumsum(here + 1) - (here + 1)
                window = slice(max(first - part_first, 0), end - part_first)
                lengths.append(here[window])
                starts.append(where[window])
        return np.concatenate(lengths), np.concatenate(starts)


class MixedStream:
    """The documents of all sources, in the order of the interleave stage."""

    def __init__(
        self, folder: Path, segments: Sequence[Segment], sources: Sequence[IdStream]
    ) -> None:
        self._folder = folder
        self._sources = sources
        self._names = [segment.name for segment in segments]
        self._first_document, self._first_id = _positions(segments)
        self._loaded: tuple[int, tuple[I64, I64]] = (-1, (np.empty(0, np.int64),) * 2)

    def read(self, start: int, end: int) -> npt.NDArray[Any]:
        """The ids [start, end) of the stream, as far as it goes."""
        pieces = [self._sources[0].read(0, 0)]
        first = int(np.searchsorted(self._first_id, start, side="right")) - 1
        for part in range(first, len(self._names)):
            part_start = int(self._first_id[part])
            if part_start >= end:
                break
            pieces.append(self._read_part(part, max(start - part_start, 0), end - part_start))
        return pieces[1] if len(pieces) == 2 else np.concatenate(pieces)

    def _read_part(self, part: int, low: int, high: int) -> npt.NDArray[Any]:
        """The ids [low, high) of one range of documents."""
        order, ends = self._part(part)
        high = min(high, int(ends[-1])) if len(ends) else 0
        if low >= high:
            return self._sources[0].read(0, 0)
        first = int(np.searchsorted(ends, low, side="right"))
        last = int(np.searchsorted(ends, high, side="left")) + 1
        source, start, length = order[:, first:last].copy()
        size = length + 1  # with the separator
        skipped = low - (ends[first] - size[0])
        start[0] += skipped
        size[0] -= skipped
        size[-1] -= ends[last - 1] - high
        return self._gathered(source, start, size)

    def gather(self, starts: I64, lengths: I64) -> npt.NDArray[Any]:
        """The ids of pieces, each inside a document, one after another."""
        source, start = np.empty(len(starts), np.int64), np.empty(len(starts), np.int64)
        part_of = np.searchsorted(self._first_id, starts, side="right") - 1
        for part in np.unique(part_of).tolist():
            mine = np.flatnonzero(part_of == part)
            order, ends = self._part(part)
            here = starts[mine] - self._first_id[part]
            document = np.searchsorted(ends, here, side="right")
            source[mine] = order[0][document]
            start[mine] = order[1][document] + here - (ends - order[2] - 1)[document]
        return self._gathered(source, start, lengths)

    def _gathered(self, source: I64, start: I64, length: I64) -> npt.NDArray[Any]:
        """Pieces of documents of several sources, one after another."""
        result = np.empty(int(length.sum()), self._sources[0].read(0, 0).dtype)
        place = np.cumsum(length) - length
        for number in np.unique(source).tolist():
            mine = np.flatnonzero(source == number)
            ids = self._sources[number].gather(start[mine], length[mine])
            result[spread(place[mine], length[mine])] = ids
        return result

    def documents(self, first: int, end: int) -> tuple[I64, I64]:
        """(lengths, positions in the stream) of the documents [first, end)."""
        lengths, starts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for part, (part_first, part_end) in enumerate(pairwise(self._first_document)):
            if part_first < end and part_end > first:
                order, ends = self._part(part)
                window = slice(max(first - part_first, 0), end - part_first)
                lengths.append(order[2][window])
                starts.append((self._first_id[part] + ends - order[2] - 1)[window])
        return np.concatenate(lengths), np.concatenate(starts)

    def _part(self, part: int) -> tuple[I64, I64]:
        """The order of a range, [3, D], and where each document's separator ends in it, [D]."""
        if self._loaded[0] != part:
            order = np.load(self._folder / f"{self._names[part]}.order.npy")
            self._loaded = part, (order, np.cumsum(order[2] + 1))
        return self._loaded[1]


class KeyedStream(MixedStream):
    """The documents of one source, in the order of the order stage."""

    def groups(self, first: int, end: int) -> npt.NDArray[np.uint64]:
        """The hashes of the keys of the documents [first, end)."""
        found = [np.empty(0, np.uint64)]
        for part, (part_first, part_end) in enumerate(pairwise(self._first_document)):
            if part_first < end and part_end > first:
                groups = np.load(self._folder / f"{self._names[part]}.groups.npy", mmap_mode="r")
                found.append(np.array(groups[max(first - part_first, 0) : end - part_first]))
        return np.concatenate(found)
