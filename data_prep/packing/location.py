"""In which rows a document stands: the way from its place in a stream to rows and shards."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_prep.dataset.manifest import Split
from data_prep.engine.stage import StageResult
from data_prep.packing.amounts import places_of
from data_prep.packing.config import PackConfig
from data_prep.packing.layout import LayoutPart
from data_prep.packing.order import OrderPart, segments_with
from data_prep.packing.order_keys import buckets_of
from data_prep.packing.placement import EDGE_TOKENS, PACKERS
from data_prep.packing.streams import MIXED, InterleavePart, Streams, first_in_range


class Place(NamedTuple):
    """Where a document is in the stream that rows are cut from."""

    source: str
    """The source of the rows: that of the document, or MIXED."""
    document: int
    """Number of the document in the stream."""
    start: int
    """Number of its first id in the stream."""
    length: int
    """Its ids, without the separator."""


def place_in_source(streams: Streams, split: Split, source: str, document: int) -> Place:
    """The place of the document with number `document` of a source and split, in the stream of
    that source. IndexError if the stream ends before it (`max_tokens`)."""
    first_document = first_id = 0
    for segment in streams.sources[split, source]:
        if document < first_document + segment.documents:
            lengths = np.load(streams.encoded / f"{segment.name}.lengths.npy").astype(np.int64)
            number = document - first_document
            start = first_id + int(lengths[:number].sum()) + number
            return Place(source, document, start, int(lengths[number]))
        first_document += segment.documents
        first_id += segment.ids
    raise IndexError(document)


def places_in_mixed(
    streams: Streams, interleaved: StageResult[InterleavePart], split: Split, place: Place
) -> list[Place]:
    """The places of the same document in the stream of all sources: several if its source is
    repeated, or none if it is packed in part."""
    assert streams.order is not None
    number = [source for of, source in streams.sources if of == split].index(place.source)
    first_document = first_id = 0
    found = []
    for part, record in interleaved.with_records():
        if part.split != split:
            continue
        count = part.counts[number]
        here = range(
            first_in_range(count, part.number, part.num_ranges),
            first_in_range(count, part.number + 1, part.num_ranges),
        )
        if any(at in here for at in places_of(part.documents[number], count, place.document)):
            order = np.load(streams.order / f"{part.name}.order.npy", mmap_mode="r")
            for at in np.flatnonzero((order[0] == number) & (order[1] == place.start)).tolist():
                start = first_id + int((order[2, :at] + 1).sum())
                found.append(Place(MIXED, first_document + at, start, place.length))
        first_document += record["documents"]
        first_id += record["documents"] + record["tokens"]
    return found


def place_by_key(
    streams: Streams, ordered: StageResult[OrderPart], split: Split, place: Place, key: np.uint64
) -> Place:
    """The place of the same document, with the hash `key`, in the stream of its source that is
    ordered by a key."""
    assert streams.keyed is not None
    bucket = int(buckets_of(np.array([key]))[0])
    candidates = set(segments_with(ordered, split, place.source, bucket, place.document))
    first_document = first_id = 0
    for segment in streams.keyed_segments[split, place.source]:
        if segment.name in candidates:
            order = np.load(streams.keyed / f"{segment.name}.order.npy", mmap_mode="r")
            for at in np.flatnonzero((order[1] == place.start) & (order[2] == place.length)):
                start = first_id + int((order[2, :at] + 1).sum())
                return Place(place.source, first_document + int(at), start, place.length)
        first_document += segment.documents
        first_id += segment.ids
    raise IndexError(place.document)


def rows_of(
    config: PackConfig, layout: StageResult[LayoutPart], split: Split, place: Place
) -> list[int]:
    """The numbers of the rows, of their source and split, that hold ids of a document; ascending,
    none for a document without ids."""
    if not place.length:
        return []
    if config.mode not in PACKERS:
        width = config.row_tokens - EDGE_TOKENS
        last = (place.start + place.length - 1) // width
        return list(range(place.start // width, last + 1))
    first_row = 0
    for part, record in layout.with_records():
        if (part.split, part.source) != (split, place.source):
            continue
        if part.first <= place.document < part.end:
            row, _, start, _ = np.load(layout.folder / f"{part.name}.placements.npy")
            mine = (start >= place.start) & (start < place.start + place.length)
            return [first_row + int(number) for number in np.unique(row[mine])]
        first_row += record["rows"]
    raise IndexError(place.document)


def ranges_of(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending numbers as ranges, (first, last)."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = ranges[-1][0], number
        else:
            ranges.append((number, number))
    return ranges
