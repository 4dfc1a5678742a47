"""Equal ranges of all 64-bit hashes, and stages that have a part for each source and range."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.engine.stage import Part
from data_prep.text.batch import U64


@dataclass(frozen=True, kw_only=True)
class HashRangePart(Part):
    """Range `number` of `num_ranges` of the hashes of a source."""

    source: str
    number: int
    num_ranges: int

    def plan(self) -> dict[str, Any]:
        return {"source": self.source, "range": self.number, "ranges": self.num_ranges}


def hash_range_parts(
    counts: Mapping[str, int], at_once: int, bytes_each: int
) -> list[HashRangePart]:
    """Parts of about `at_once` hashes, for sources with so many hashes of `bytes_each` bytes."""
    parts = []
    for source, count in counts.items():
        parts += range_parts(source, -(-count // at_once) or 1, bytes_each * count)
    return parts


def range_parts(source: str, num_ranges: int, num_bytes: int) -> list[HashRangePart]:
    """A part for each of `num_ranges` ranges of a source with hashes of so many bytes."""
    return [
        HashRangePart(
            name=f"{source}-{number:06d}",
            num_bytes=num_bytes // num_ranges,
            source=source,
            number=number,
            num_ranges=num_ranges,
        )
        for number in range(num_ranges)
    ]


def range_of(number: int, num_ranges: int) -> tuple[np.uint64, np.uint64]:
    """The lowest and the highest hash of range `number` of `num_ranges` equal ranges."""
    first, end = number * (1 << 64) // num_ranges, (number + 1) * (1 << 64) // num_ranges
    return np.uint64(first), np.uint64(end - 1)


def in_range(ascending: U64, number: int, num_ranges: int) -> slice:
    """The positions of the hashes of a range in an ascending array."""
    low, high = range_of(number, num_ranges)
    start = np.searchsorted(ascending, low)
    return slice(int(start), int(np.searchsorted(ascending, high, side="right")))
