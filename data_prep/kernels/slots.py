"""Looks hashes up in bits, one for each slot."""

import numpy as np

from data_prep.kernels.compiled import BYTE, HASH, I64, U8, U64, compiled, read

_1, _3, _7 = np.uint64(1), np.uint64(3), np.uint64(7)


@compiled(read(HASH), read(BYTE), HASH, HASH)
def marked(hashes: U64, marks: U8, skipped_bits: np.uint64, shift: np.uint64) -> I64:
    """The positions of those `hashes` whose slot is marked, ascending.

    The slot is the hash without its highest `skipped_bits`, without the lowest `shift` bits of what
    is left; `marks` has eight slots in a byte, from its lowest bit on.
    """
    found = np.empty(len(hashes), np.int64)
    count = 0
    for position in range(len(hashes)):
        slot = (hashes[position] << skipped_bits) >> shift
        found[count] = position  # without a branch, which would be mispredicted
        count += int((np.uint64(marks[np.int64(slot >> _3)]) >> (slot & _7)) & _1)
    return found[:count]
