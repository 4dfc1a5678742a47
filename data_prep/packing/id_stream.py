"""The ids of encoded documents as long arrays, one for each split and source, or, interleaved,
one for each split: what rows are cut out of.

In a stream stand document d's ids, ``</s>``, document d + 1's ids, ``</s>``, ...
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from data_prep.dataset.atomic import save_array
from data_prep.dataset.manifest import SPLITS
from data_prep.engine.stages import Part, Record, Stage, StageResult, source_of
from data_prep.packing.config import PackConfig

INTERLEAVE = "interleave"
MIXED = "mixed"
"""Name of the one source of rows that hold documents of all sources."""
_RANGE_DOCUMENTS = 50_000
_MAX_OPEN_FILES = 500
I64 = npt.NDArray[np.int64]
Entry = tuple[str, int, int]
"""(file name without suffix, documents, tokens without separators) of one part of a stream."""


class IdStream(Protocol):
    """A stream of ids, read by position."""

    def read(self, start: int, end: int) -> npt.NDArray[Any]:
        """The ids `start` to `end` of the stream."""

    def gather(self, starts: I64, lengths: I64) -> npt.NDArray[Any]:
        """The ids of pieces, none of which goes beyond its document, one after another."""

    def documents(self, first: int, last: int) -> tuple[I64, I64]:
        """(lengths, where they start in the stream) of the documents `first` to `last`."""


def spread(starts: I64, lengths: I64) -> I64:
    """start, start + 1, ..., start + length - 1 of each piece, one after another."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


class SourceStream:
    """The documents of one source and split, in their order, over the parts' files."""

    def __init__(self, folder: Path, parts: Sequence[Entry], dtype: str) -> None:
        self._folder = folder
        self._names = [name for name, documents, _ in parts if documents]
        documents = [documents for _, documents, _ in parts if documents]
        ids = [documents + tokens for _, documents, tokens in parts if documents]
        self._first_document = np.append(0, np.cumsum(documents, dtype=np.int64))
        self._first_id = np.append(0, np.cumsum(ids, dtype=np.int64))
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._open: dict[int, npt.NDArray[Any]] = {}

    def read(self, start: int, end: int) -> npt.NDArray[Any]:
        """The ids `start` to `end` of the stream."""
        pieces = [np.empty(0, self._dtype)]
        first = int(np.searchsorted(self._first_id, start, side="right")) - 1
        for part in range(first, len(self._names)):
            begin = self._first_id[part]
            if begin >= end:
                break
            low, high = max(start - begin, 0), min(end, self._first_id[part + 1]) - begin
            path = self._folder / f"{self._names[part]}.ids"
            offset = int(low) * self._dtype.itemsize
            pieces.append(np.fromfile(path, self._dtype, int(high - low), offset=offset))
        return pieces[1] if len(pieces) == 2 else np.concatenate(pieces)

    def gather(self, starts: I64, lengths: I64) -> npt.NDArray[Any]:
        """The ids of pieces, none of which goes beyond its document, one after another."""
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

    def documents(self, first: int, last: int) -> tuple[I64, I64]:
        """(lengths, where they start in the stream) of the documents `first` to `last`."""
        lengths, starts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for part, (begin, end) in enumerate(pairwise(self._first_document)):
            if begin < last and end > first:
                path = self._folder / f"{self._names[part]}.lengths.npy"
                here = np.load(path).astype(np.int64)
                where = self._first_id[part] + np.cumsum(here + 1) - (here + 1)
                window = slice(max(first - begin, 0), last - begin)
                lengths.append(here[window])
                starts.append(where[window])
        return np.concatenate(lengths), np.concatenate(starts)


class MixedStream:
    """The documents of all sources, in the order of the interleave stage."""

    def __init__(self, folder: Path, parts: Sequence[Entry], sources: Sequence[IdStream]) -> None:
        self._folder = folder
        self._sources = sources
        self._names = [name for name, _, _ in parts]
        self._first_document = np.append(0, np.cumsum([n for _, n, _ in parts], dtype=np.int64))
        ids = [documents + tokens for _, documents, tokens in parts]
        self._first_id = np.append(0, np.cumsum(ids, dtype=np.int64))
        self._loaded: tuple[int, tuple[I64, I64]] = (-1, (np.empty(0, np.int64),) * 2)

    def read(self, start: int, end: int) -> npt.NDArray[Any]:
        """The ids `start` to `end` of the stream."""
        pieces = [self._sources[0].read(0, 0)]
        first = int(np.searchsorted(self._first_id, start, side="right")) - 1
        for part in range(first, len(self._names)):
            begin = int(self._first_id[part])
            if begin >= end:
                break
            pieces.append(self._read_part(part, max(start - begin, 0), end - begin))
        return pieces[1] if len(pieces) == 2 else np.concatenate(pieces)

    def _read_part(self, part: int, low: int, high: int) -> npt.NDArray[Any]:
        """The ids `low` to `high` of one range of documents."""
        order, ends = self._part(part)
        high = min(high, int(ends[-1])) if len(ends) else 0
        if low >= high:
            return self._sources[0].read(0, 0)
        first = int(np.searchsorted(ends, low, side="right"))
        last = int(np.searchsorted(ends, high, side="left")) + 1
        source, begin, length = order[:, first:last].copy()
        size = length + 1  # with the separator
        skipped = low - (ends[first] - size[0])
        begin[0] += skipped
        size[0] -= skipped
        size[-1] -= ends[last - 1] - high
        return self._gathered(source, begin, size)

    def gather(self, starts: I64, lengths: I64) -> npt.NDArray[Any]:
        """The ids of pieces, none of which goes beyond its document, one after another."""
        source, begin = np.empty(len(starts), np.int64), np.empty(len(starts), np.int64)
        part_of = np.searchsorted(self._first_id, starts, side="right") - 1
        for part in np.unique(part_of).tolist():
            mine = np.flatnonzero(part_of == part)
            order, ends = self._part(part)
            start = starts[mine] - self._first_id[part]
            document = np.searchsorted(ends, start, side="right")
            source[mine] = order[0][document]
            begin[mine] = order[1][document] + start - (ends - order[2] - 1)[document]
        return self._gathered(source, begin, lengths)

    def _gathered(self, source: I64, begin: I64, length: I64) -> npt.NDArray[Any]:
        """Pieces of documents of several sources, one after another."""
        result = np.empty(int(length.sum()), self._sources[0].read(0, 0).dtype)
        place = np.cumsum(length) - length
        for number in np.unique(source).tolist():
            mine = np.flatnonzero(source == number)
            ids = self._sources[number].gather(begin[mine], length[mine])
            result[spread(place[mine], length[mine])] = ids
        return result

    def documents(self, first: int, last: int) -> tuple[I64, I64]:
        """(lengths, where they start in the stream) of the documents `first` to `last`."""
        lengths, starts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for part, (begin, end) in enumerate(pairwise(self._first_document)):
            if begin < last and end > first:
                order, ends = self._part(part)
                window = slice(max(first - begin, 0), last - begin)
                lengths.append(order[2][window])
                starts.append((self._first_id[part] + ends - order[2] - 1)[window])
        return np.concatenate(lengths), np.concatenate(starts)

    def _part(self, part: int) -> tuple[I64, I64]:
        """The order of a range, [3, D], and where each document's separator ends in it, [D]."""
        if self._loaded[0] != part:
            order = np.load(self._folder / f"{self._names[part]}.order.npy")
            self._loaded = part, (order, np.cumsum(order[2] + 1))
        return self._loaded[1]


@dataclass(frozen=True)
class Streams:
    """All streams of a run."""

    encoded: str
    """Folder of the encode stage."""
    dtype: str
    sources: Mapping[tuple[str, str], Sequence[Entry]]
    """Parts by split and source."""
    order: str = ""
    """Folder of the interleave stage, where there is one."""
    mixed: Mapping[str, Sequence[Entry]] = field(default_factory=dict)
    """Parts of the interleaved streams, by split."""

    @property
    def entries(self) -> dict[tuple[str, str], Sequence[Entry]]:
        """Split and source (or MIXED) to the parts of what is packed."""
        if self.order:
            return {(split, MIXED): parts for split, parts in self.mixed.items()}
        return dict(self.sources)

    def open(self, split: str, source: str) -> IdStream:
        """One stream."""
        if not self.order:
            parts = self.sources[split, source]
            return SourceStream(Path(self.encoded), parts, self.dtype)
        return MixedStream(Path(self.order), self.mixed[split], self.open_sources(split))

    def open_sources(self, split: str) -> list[IdStream]:
        """The streams of all sources."""
        return [
            SourceStream(Path(self.encoded), parts, self.dtype)
            for (of, _), parts in self.sources.items()
            if of == split
        ]


def source_streams(encoded: StageResult, sources: Sequence[str], dtype: str) -> Streams:
    """The streams of the sources."""
    result: dict[tuple[str, str], list[Entry]] = {(sp, so): [] for sp in SPLITS for so in sources}
    for part, record in zip(encoded.parts, encoded.records, strict=True):
        for split in SPLITS:
            entry = f"{part.name}.{split}", record[f"{split}_documents"], record[f"{split}_tokens"]
            result[split, source_of(part.name)].append(entry)
    return Streams(str(encoded.folder), dtype, result)


def mixed_streams(streams: Streams, interleaved: StageResult) -> Streams:
    """The same, interleaved."""
    mixed: dict[str, list[Entry]] = {split: [] for split in SPLITS}
    for part, record in zip(interleaved.parts, interleaved.records, strict=True):
        entry = part.name, record["documents"], record["tokens"]
        mixed[part.arguments["split"]].append(entry)
    return Streams(streams.encoded, streams.dtype, streams.sources, str(interleaved.folder), mixed)


def interleave_stage(encoded: StageResult, config: PackConfig, streams: Streams) -> Stage | None:
    """Ranges of the order in which the documents of all sources follow each other; None where
    rows are not mixed.

    Document i of the D of a source stands at (i + 1/2) / D of the way, so that every stretch has
    the sources in their proportions. That depends on the documents only, not on parts.
    """
    if not config.mixed:
        return None
    parts = []
    for split in SPLITS:
        counts = [
            sum(documents for _, documents, _ in entries)
            for (of, _), entries in streams.sources.items()
            if of == split
        ]
        num_ranges = -(-sum(counts) // _RANGE_DOCUMENTS)
        for number in range(num_ranges):
            place = {"split": split, "number": number, "ranges": num_ranges, "counts": counts}
            parts.append(Part(f"{split}-{number:06d}", place))
    return Stage(
        INTERLEAVE,
        1,
        {"range": _RANGE_DOCUMENTS},
        {"encode": encoded.content_fingerprint},
        parts,
        interleave_part,
        {"streams": streams},
    )


def interleave_part(
    folder: Path, part: Part, settings: Mapping[str, Any]
) -> tuple[Record, Sequence[str]]:
    """Writes PART.order.npy [3, D]: source, first id in its stream, ids without separator."""
    place = part.arguments
    streams: Streams = settings["streams"]
    ways, columns = [np.empty(0)], [np.empty((3, 0), np.int64)]
    for number, stream in enumerate(streams.open_sources(place["split"])):
        count = place["counts"][number]
        first, last = (first_in_range(count, place["number"] + k, place["ranges"]) for k in (0, 1))
        lengths, starts = stream.documents(first, last)
        ways.append((2 * np.arange(first, last) + 1) / (2 * max(count, 1)))
        columns.append(np.stack([np.full(len(lengths), number), starts, lengths]))
    order = np.concatenate(columns, axis=1)[:, np.argsort(np.concatenate(ways), kind="stable")]
    save_array(folder / f"{part.name}.order.npy", order)
    return {"documents": order.shape[1], "tokens": int(order[2].sum())}, [f"{part.name}.order.npy"]


def first_in_range(count: int, number: int, of: int) -> int:
    """The first of `count` documents that stands at `number` / `of` of the way or later."""
    return min(max(-((of - 2 * count * number) // (2 * of)), 0), count)
