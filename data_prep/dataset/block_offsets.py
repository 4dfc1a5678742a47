"""The byte offsets of a shard's blocks, as the manifest holds them."""

from array import array
from collections.abc import Sequence
from typing import Annotated

from pydantic import PlainSerializer, PlainValidator


def _offsets(values: object) -> "array[int]":
    """`values` as 64-bit integers: a data set of terabytes has millions, of which Python's own
    would take 36 bytes each in every process."""
    if not isinstance(values, list | tuple | array):
        raise ValueError("Input should be a list of integers")
    try:
        found = array("q", values)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"Input should be a list of integers: {error}") from None
    if min(found, default=0) < 0 or max(found, default=0) > 1 << 53:
        raise ValueError("Input should be greater than or equal to 0, and at most 2^53")
    return found


Offsets = Annotated[
    Sequence[int], PlainValidator(_offsets), PlainSerializer(list, return_type=list[int])
]
