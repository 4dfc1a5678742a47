"""Ranges of whole numbers, many at once."""

import numpy as np

from data_prep.kernels.compiled import I64


def ranges(starts: I64, ends: I64) -> I64:
    """The whole numbers of each range [start, end), one range after the other."""
    sizes = ends - starts
    before = np.cumsum(sizes) - sizes
    numbers: I64 = np.arange(int(sizes.sum())) + np.repeat(starts - before, sizes)
    return numbers
