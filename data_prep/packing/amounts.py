"""How much of a source is packed: a limit in tokens, and repetition."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.packing.id_stream import I64, IdStream, Segment

_AT_ONCE = 1_000_000


def first_tokens(folder: Path, segments: Sequence[Segment], max_tokens: int) -> list[Segment]:
    """The segments of the first documents that together have no more than `max_tokens`."""
    result = []
    left = max_tokens
    for segment in segments:
        if segment.tokens <= left:
            left -= segment.tokens
            result.append(segment)
            continue
        lengths = np.load(folder / f"{segment.name}.lengths.npy").astype(np.int64)
        ends = np.cumsum(lengths)
        documents = int(np.searchsorted(ends, left, side="right"))
        result.append(Segment(segment.name, documents, int(lengths[:documents].sum())))
        left = -1  # no document after the first that does not fit
    return result


def repeated_count(count: int, repeat: float) -> int:
    """How many documents `count` of them make that are repeated."""
    return round(count * repeat)


def repeated(count: int, total: int, numbers: I64) -> I64:
    """Which of `count` documents stand at the places `numbers` of `total`: all of them again and
    again, then evenly spaced ones."""
    passes = total // max(count, 1)
    extra = total - passes * count
    again = numbers - passes * count
    return np.where(again < 0, numbers % max(count, 1), again * count // max(extra, 1))


def places_of(count: int, total: int, document: int) -> list[int]:
    """All places of a document, see `repeated`."""
    passes = total // count
    extra = total - passes * count
    places = [number * count + document for number in range(passes)]
    last = -(-document * extra // count)  # the first of the evenly spaced ones at or after it
    if extra and last < extra and last * count // extra == document:
        places.append(passes * count + last)
    return places


def repeated_documents(
    stream: IdStream, count: int, total: int, first: int, end: int
) -> tuple[I64, I64]:
    """(lengths, positions in the stream) of the documents at the places [first, end) of `total`."""
    if total == count:
        return stream.documents(first, end)
    documents = repeated(count, total, np.arange(first, end))
    lengths, starts = np.empty(len(documents), np.int64), np.empty(len(documents), np.int64)
    at = 0
    while at < len(documents):  # what ascends, and is not too far apart
        rest = documents[at:]
        low = int(rest[0])
        ends = (np.diff(rest, append=-1) < 0) | (np.append(rest[1:], low) >= low + _AT_ONCE)
        here = rest[: int(np.flatnonzero(ends)[0]) + 1]
        found_lengths, found_starts = stream.documents(low, int(here[-1]) + 1)
        lengths[at : at + len(here)] = found_lengths[here - low]
        starts[at : at + len(here)] = found_starts[here - low]
        at += len(here)
    return lengths, starts
