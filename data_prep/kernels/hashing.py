"""64-bit hashes, in whole numbers modulo 2^64."""

import numpy as np

from data_prep.kernels.compiled import HASH, U64, compiled, inlined, read

ODD_0, ODD_1, ODD_2, ODD_3 = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xBF58476D1CE4E5B9),
    np.uint64(0x94D049BB133111EB),
    np.uint64(0xD6E8FEB86659FD93),
)
ODD_3_INVERSE = np.uint64(pow(int(ODD_3), -1, 1 << 64))


@inlined
def mix(value: np.uint64) -> np.uint64:
    """Mixes every bit of the input into all bits."""
    value ^= value >> np.uint64(32)
    value *= ODD_1
    return value ^ value >> np.uint64(29)


@compiled(read(HASH))
def mixed(hashes: U64) -> U64:
    """`mix` of each: [N]."""
    result = np.empty_like(hashes)
    for number in range(len(hashes)):
        result[number] = mix(hashes[number])
    return result
