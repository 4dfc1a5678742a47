"""Reads numbers in places of a file: a call of the system for each, and no more."""

import numpy as np

from data_prep.kernels.compiled import HASH, I64, INTEGER, U64, compiled, pread, read, written

_GAP_BYTES = 4096
"""Reading so much that is not wanted takes about as long as another call."""
_BUFFER_NUMBERS = 1 << 15
_BLOCK_KEYS = 512
"""Of ascending keys in a file, so many are read together."""
_8 = np.uint64(8)


@compiled(INTEGER, read(INTEGER), read(INTEGER), INTEGER, written(HASH))
def read_rows(file: int, starts: I64, targets: I64, width: int, rows: U64) -> int:
    """Reads rows of `width` numbers from the ascending `starts` [n], in bytes, of an open file, to
    the places `targets` [n] in `rows` [N x width]; returns how many are read: n, or fewer where the
    file cannot be read or ends.

    Rows that are near one another are read together, with what is between.
    """
    # Mapping the file takes several times as long: a page, and its neighbours, for each.
    num_bytes = 8 * width
    buffer = np.empty(max(_BUFFER_NUMBERS, width), np.uint64)
    first = 0
    while first < len(starts):
        end = first + 1
        while (
            end < len(starts)
            and starts[end] - starts[end - 1] - num_bytes <= _GAP_BYTES
            and starts[end] - starts[first] + num_bytes <= buffer.nbytes
        ):
            end += 1
        size = starts[end - 1] - starts[first] + num_bytes
        if pread(file, buffer.ctypes.data, size, starts[first]) != size:
            return first
        for number in range(first, end):
            source = np.uint64(starts[number] - starts[first]) // _8
            target = np.uint64(targets[number] * width)
            for column in range(np.uint64(width)):
                rows[target + column] = buffer[source + column]
        first = end
    return first


@compiled(INTEGER, INTEGER, INTEGER, read(HASH))
def bounds_in_file(file: int, start: int, length: int, edges: U64) -> I64:
    """Where keys from each of the ascending `edges` on start among the ascending keys, `length` of
    them from byte `start` on, of an open file; empty where the file cannot be read or ends."""
    # Mapped into memory, every step of a binary search brings sixteen pages.
    bounds = np.empty(len(edges), np.int64)
    buffer = np.empty(_BLOCK_KEYS, np.uint64)
    low, key_below = 0, np.float64(0)
    for number in range(len(edges)):
        edge = edges[number]
        high, key_above = length, np.float64(2.0**64)
        steps = 0
        while low < high:
            first, count = low, min(high - low, _BLOCK_KEYS)
            if high - low > _BLOCK_KEYS:  # where it is if keys are spread evenly, or the middle
                share = np.float64(0.5)
                if steps % 2 == 0:
                    share = (np.float64(edge) - key_below) / max(key_above - key_below, 1.0)
                first = low + int(share * (high - low)) - count // 2
                first = min(max(first, low), high - count)
            if pread(file, buffer.ctypes.data, 8 * count, start + 8 * first) != 8 * count:
                return bounds[:0]
            steps += 1
            if edge <= buffer[0]:
                high, key_above = first, np.float64(buffer[0])
            elif edge > buffer[count - 1]:
                low, key_below = first + count, np.float64(buffer[count - 1])
            else:
                low = high = first + int(np.searchsorted(buffer[:count], edge))
        bounds[number] = low
        key_below = np.float64(edge)
    return bounds
