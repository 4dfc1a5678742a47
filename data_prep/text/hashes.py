"""64-bit hashes of tokens and of sequences of tokens. Every byte counts."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xxhash

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_LOW_BYTES = np.array([(1 << (8 * n)) - 1 for n in range(9)], dtype=np.uint64)
_ODD = np.array(
    [0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93],
    dtype=np.uint64,
)
_ODD_INVERSE = np.uint64(pow(int(_ODD[3]), -1, 1 << 64))
_LONG_TOKEN = 64
"""Bytes above which a token is hashed alone: such tokens are few, or the text is no language."""


def hashes_of_tokens(data: npt.NDArray[np.uint8], starts: I64, ends: I64) -> U64:
    """A hash of the bytes of each token [start, end) of `data`, after whose last token there are at
    least 16 more bytes: [T]."""
    lengths = ends - starts
    eight = np.ndarray((len(data) - 7,), "<u8", data.data, strides=(1,))
    hashes = (eight[starts] & _LOW_BYTES[np.minimum(lengths, 8)]) * _ODD[0]
    long = np.flatnonzero(lengths > 8)
    more = np.minimum(lengths[long] - 8, 8)
    hashes[long] += (eight[starts[long] + 8] & _LOW_BYTES[more]) * _ODD[1]
    longer = np.flatnonzero(lengths > 16)
    hashes[longer] += (eight[ends[longer] - 8] ^ lengths[longer].astype(np.uint64)) * _ODD[2]
    # What is between the first 16 and the last 8 bytes.
    middle = longer[lengths[longer] > 24]
    for offset in range(16, _LONG_TOKEN - 8, 8):
        middle = middle[lengths[middle] > offset + 8]
        if not len(middle):
            break
        hashes[middle] = mixed(hashes[middle]) + eight[starts[middle] + offset] * _ODD[3]
    for token in middle[lengths[middle] > _LONG_TOKEN].tolist():
        hashes[token] = xxhash.xxh3_64_intdigest(data[starts[token] : ends[token]].tobytes())
    return mixed(hashes)


def chain_powers(num: int) -> tuple[U64, U64]:
    """Powers of the multiplier of `chained`, and their inverses (mod 2^64): [num], [num]."""
    return _powers(_ODD[3], num), _powers(_ODD_INVERSE, num)


def _powers(base: np.uint64, num: int) -> U64:
    """base ** 0, base ** 1, ... (mod 2^64): [num]."""
    factors = np.full(num, base, dtype=np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)


def chained(columns: Sequence[U64]) -> U64:
    """One hash per row of the hashes in `columns`, which depends on their order."""
    result = columns[0].copy()
    for column in columns[1:]:
        result *= _ODD[3]
        result += column
    return mixed(result)


def mixed(hashes: U64) -> U64:
    """Mixes every bit of the input into all bits; changes `hashes` in place."""
    hashes ^= hashes >> np.uint64(32)
    hashes *= _ODD[1]
    hashes ^= hashes >> np.uint64(29)
    return hashes
