"""Marked slots are found as Python finds them."""

import random

import numpy as np
import pytest

from data_prep.kernels.slots import marked

HIGHEST = 2**64 - 1


@pytest.mark.parametrize(("skipped", "bits"), [(0, 6), (0, 13), (3, 6), (4, 20)])
def test_hashes_of_marked_slots_are_found(skipped: int, bits: int) -> None:
    generate = random.Random(0)
    hashes = [0, HIGHEST, *(generate.getrandbits(64) for _ in range(500)), 1 << 63]
    marks = generate.randbytes(2**bits // 8)
    expected = []
    for position, number in enumerate(hashes):
        slot = (number << skipped & HIGHEST) >> (64 - bits)
        if marks[slot // 8] >> slot % 8 & 1:
            expected.append(position)
    arguments = np.array(hashes, dtype=np.uint64), np.frombuffer(marks, dtype=np.uint8)
    found = marked(*arguments, np.uint64(skipped), np.uint64(64 - bits))
    assert found.tolist() == expected
    assert 100 < len(found) < 400
    assert not len(marked(arguments[0][:0], *arguments[1:], np.uint64(0), np.uint64(64 - bits)))
