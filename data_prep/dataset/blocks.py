"""What the manifest says of a shard's blocks, in little memory: data sets of terabytes have many.

Offsets with one distance, as the writer makes them, are a `range`; others take 8 bytes a block, as
do checksums. Python's own integers and the digits of the file would take ten times as much, in
every process.
"""

import re
from array import array
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import PlainSerializer, PlainValidator

SUM_BYTES = 8
"""Of a checksum, which is twice as many digits in the file."""
_SUMS = re.compile(r"([0-9a-f]{16})*\Z")


def _offsets(values: object) -> Sequence[int]:
    if not isinstance(values, list | tuple | array | range):
        raise ValueError("Input should be a list of integers")
    if not isinstance(values, range):
        try:
            values = _evenly(array("q", values))
        except (TypeError, OverflowError) as error:
            raise ValueError(f"Input should be a list of integers: {error}") from None
    if min(values, default=0) < 0 or max(values, default=0) > 1 << 53:
        raise ValueError("Input should be greater than or equal to 0, and at most 2^53")
    return values


def _evenly(values: "array[int]") -> Sequence[int]:
    """`values` as a range, if they have one distance above 0."""
    if not values or max(values) - min(values) > 1 << 53:
        return values
    step = values[1] - values[0] if len(values) > 1 else 1
    if step <= 0 or (np.diff(np.frombuffer(values, np.int64)) != step).any():
        return values
    return range(values[0], values[-1] + 1, step)


def _sums(digits: object) -> bytes:
    if isinstance(digits, bytes):
        return digits
    if not isinstance(digits, str) or _SUMS.match(digits) is None:
        raise ValueError("Input should be 16 digits from 0-9 and a-f for each block")
    return bytes.fromhex(digits)


Offsets = Annotated[
    Sequence[int],
    PlainValidator(_offsets),
    PlainSerializer(list, return_type=list[int], when_used="json"),
]
Sums = Annotated[
    bytes, PlainValidator(_sums), PlainSerializer(bytes.hex, return_type=str, when_used="json")
]


def compact(shard: dict[str, Any]) -> None:
    """Replaces the numbers of blocks in a `shard` as JSON holds it; those that are wrong stay."""
    for key, compacted in (("block_offsets", _offsets), ("block_xxh3_64", _sums)):
        if key in shard:
            try:
                shard[key] = compacted(shard[key])
            except ValueError:
                continue  # pydantic names the place


def plain(value: Any) -> Any:
    """As JSON holds it: the other way."""
    return value.hex() if isinstance(value, bytes) else list(value)


def places(offsets: Sequence[int], blocks: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The offsets of `blocks` [n]."""
    if isinstance(offsets, range):
        return offsets.start + blocks * offsets.step
    return np.asarray(offsets, np.int64)[blocks]


def ends_inside(offsets: Sequence[int], rows: int, block_rows: int, row_bytes: int) -> int | None:
    """The number of the first block that starts before the one before it ends; None: there is none.

    `rows` are in blocks of `block_rows` rows of `row_bytes` bytes.
    """
    size = block_rows * row_bytes
    if isinstance(offsets, range):
        return 1 if len(offsets) > 1 and offsets.step < size else None
    end = 0
    for number, offset in enumerate(offsets):
        if offset < end:
            return number
        end = offset + min(block_rows, rows - number * block_rows) * row_bytes
    return None
