"""Loops of the joins over documents: recurring keys, and signatures that agree. Legend: N keys, R
runs of keys, P pairs, W numbers of a signature."""

import numpy as np
import numpy.typing as npt

from data_prep.kernels.compiled import (
    BYTE,
    HALF,
    HASH,
    I64,
    INTEGER,
    U64,
    Flags,
    Numbers,
    compiled,
    compiled_for_each,
    inlined,
    read,
    written,
)

U32 = npt.NDArray[np.uint32]

_0, _1, _2 = np.uint64(0), np.uint64(1), np.uint64(2)
_6, _7, _63 = np.uint64(6), np.uint64(7), np.uint64(63)
_LOW_SEVEN_BITS = np.uint64(0x7F7F7F7F7F7F7F7F)
_ONES = np.uint64(0x0101010101010101)
_TOP_BYTE = np.uint64(56)
_EIGHT = np.uint64(3)
"""So many bits of a slot's number are dropped for sorting: eight slots have two keys, about."""
_FEW = 32
"""So many keys of a slot are sorted by insertion."""


@compiled(read(HASH), read(INTEGER), read(INTEGER), read(HASH))
def bounds_in_runs(keys: U64, starts: I64, ends: I64, edges: U64) -> I64:
    """Where keys from each of the ascending `edges` on start in each run: [edges x R].

    A run is the `keys` [N] from one of `starts` to one of `ends` ([R]), ascending.
    """
    bounds = np.empty(len(edges) * len(starts), np.int64)
    for run in range(len(starts)):
        low = starts[run]
        for edge in range(len(edges)):
            high = ends[run]
            while low < high:
                middle = (low + high) >> 1
                if keys[middle] < edges[edge]:
                    low = middle + 1
                else:
                    high = middle
            bounds[edge * len(starts) + run] = low
    return bounds


@compiled(read(INTEGER), INTEGER, INTEGER, INTEGER, INTEGER)
def by_window(
    places: I64, item_bytes: int, offset: int, window_bits: int, num_windows: int
) -> tuple[I64, I64, I64]:
    """The `places` [N] in the order of the windows of a file that they are in, their positions in
    `places`, and where each window starts in both: [windows + 1].

    Place 0 is at byte `offset`; each takes `item_bytes`. A window has 2^`window_bits` bytes.
    """
    starts = np.zeros(num_windows + 2, np.int64)
    for number in range(np.uint64(len(places))):
        starts[((places[number] * item_bytes + offset) >> window_bits) + 2] += 1
    for window in range(2, len(starts)):
        starts[window] += starts[window - 1]
    ordered, positions = np.empty(len(places), np.int64), np.empty(len(places), np.int64)
    for number in range(np.uint64(len(places))):
        here = np.uint64((places[number] * item_bytes + offset) >> window_bits) + _1
        to = np.uint64(starts[here])
        ordered[to], positions[to] = places[number], number
        starts[here] += 1
    return ordered, positions, starts[:-1]


@compiled_for_each(
    *((read(item), read(INTEGER), read(INTEGER), written(item)) for item in (BYTE, HALF, INTEGER))
)
def gather(array: Numbers, places: I64, positions: I64, found: Numbers) -> None:
    """Copies the numbers at `places` [n] of `array` to `positions` [n] of `found`."""
    for number in range(np.uint64(len(places))):
        found[np.uint64(positions[number])] = array[np.uint64(places[number])]


@compiled(read(HASH), read(INTEGER), read(INTEGER), HASH, HASH, HASH)
def recurring_keys(
    keys: U64, starts: I64, ends: I64, low: np.uint64, slot_bits: np.uint64, shift: np.uint64
) -> I64:
    """The positions of the keys of some runs that occur there at least twice, ascending by key and
    position: at most N.

    Keys have slots in their order, 2^`slot_bits` of them: (key - `low`) >> `shift`. A key that is
    alone in its slot occurs once: only the others, a few more than those that recur, are sorted.
    """
    shared = _shared_slots(keys, starts, ends, low, slot_bits, shift)
    # The others, counted by the numbers of their slots but for the last bits.
    maybe = np.empty((ends - starts).sum() + 1, np.uint32)
    next_of = np.zeros(((_1 << slot_bits) >> _EIGHT) + _2, np.uint32)
    num_maybe = _0
    for run in range(len(starts)):
        for at in range(np.uint64(starts[run]), np.uint64(ends[run])):
            slot = (keys[at] - low) >> shift
            is_shared = shared[slot >> _6] >> (slot & _63) & _1
            maybe[num_maybe] = at
            num_maybe += is_shared
            next_of[(slot >> _EIGHT) + _2] += is_shared
    largest = next_of.max()
    for slots in range(_1, np.uint64(len(next_of))):
        next_of[slots] += next_of[slots - _1]
    positions, ascending = np.empty(num_maybe, np.int64), np.empty(num_maybe, np.uint64)
    for number in range(num_maybe):
        position = np.uint64(maybe[number])
        key = keys[position]
        of_key = ((key - low) >> shift >> _EIGHT) + _1
        place = np.uint64(next_of[of_key])
        positions[place], ascending[place] = position, key
        next_of[of_key] = place + _1
    if largest > _FEW:
        _sort_large(ascending, positions, next_of)
    _sort(ascending, positions)
    return _repeated(ascending, positions)


@inlined
def _shared_slots(
    keys: U64, starts: I64, ends: I64, low: np.uint64, slot_bits: np.uint64, shift: np.uint64
) -> U64:
    """A bit for each slot: whether it has at least two keys."""
    num_words = ((_1 << slot_bits) >> _6) + _1
    used, shared = np.zeros(num_words, np.uint64), np.zeros(num_words, np.uint64)
    for run in range(len(starts)):
        for at in range(np.uint64(starts[run]), np.uint64(ends[run])):
            slot = (keys[at] - low) >> shift
            word, bit = slot >> _6, _1 << (slot & _63)
            before = used[word]
            shared[word] |= before & bit
            used[word] = before | bit
    return shared


@inlined
def _sort_large(keys: U64, positions: I64, ends: U32) -> None:
    """Sorts both by key, those from one of `ends` to the next where these are many."""
    start = np.int64(0)
    for end in ends:
        if end - start > _FEW:
            order = np.argsort(keys[start:end], kind="mergesort")
            keys[start:end] = keys[start:end][order]
            positions[start:end] = positions[start:end][order]
        start = np.int64(end)


@inlined
def _sort(keys: U64, positions: I64) -> None:
    """Sorts both by key, where these are near their places; equal ones stay in order."""
    for number in range(_1, np.uint64(len(keys))):
        key, position, at = keys[number], positions[number], np.uint64(number)
        while at > _0 and keys[at - _1] > key:
            keys[at], positions[at] = keys[at - _1], positions[at - _1]
            at -= _1
        keys[at], positions[at] = key, position


@inlined
def _repeated(keys: U64, positions: I64) -> I64:
    """The positions of those of the ascending `keys` that occur at least twice."""
    found = _0
    was_equal = False
    for number in range(_1, np.uint64(len(keys))):
        is_equal = keys[number - _1] == keys[number]
        positions[found] = positions[number - _1]
        found += np.uint64(is_equal | was_equal)
        was_equal = is_equal
    if was_equal:
        positions[found] = positions[len(keys) - 1]
        found += _1
    return positions[:found].copy()


@compiled(read(INTEGER), read(INTEGER))
def sets_to_compare(starts: I64, roots: I64) -> Flags:
    """Whether the `roots` of a set's documents differ: [S]. `starts` [S + 1]: those of the sets,
    and the end of the last one."""
    differ = np.zeros(len(starts) - 1, np.bool_)
    for number in range(len(differ)):
        for at in range(starts[number] + 1, starts[number + 1]):
            if roots[at] != roots[starts[number]]:
                differ[number] = True
                break
    return differ


@compiled(read(INTEGER), read(INTEGER), read(HASH), INTEGER, INTEGER)
def similar_in_sets(
    starts: I64, roots: I64, signatures: U64, width: int, least: int
) -> tuple[I64, int]:
    """The pairs of positions, one after the other, of documents in the same set that have different
    `roots` and at least so many equal bytes in their `signatures` [N x W]; and how many pairs with
    different roots there are. `starts` as in `sets_to_compare`."""
    num_pairs = 0
    for number in range(len(starts) - 1):
        size = starts[number + 1] - starts[number]
        num_pairs += size * (size - 1) // 2
    found = np.empty(2 * num_pairs, np.int64)
    num_found = num_compared = 0
    for number in range(len(starts) - 1):
        for left in range(starts[number], starts[number + 1] - 1):
            for right in range(left + 1, starts[number + 1]):
                if roots[left] == roots[right]:
                    continue
                num_compared += 1
                equal = _equal_bytes(signatures, left * width, signatures, right * width, width)
                if equal >= least:
                    found[num_found], found[num_found + 1] = left, right
                    num_found += 2
    return found[:num_found].copy(), num_compared


@compiled(read(HASH), read(HASH), INTEGER)
def equal_bytes(left: U64, right: U64, width: int) -> I64:
    """How many bytes of each two signatures are equal: [P x W] twice to [P]; or [W] for one of
    them, which is compared with all of the other."""
    num_left, num_right = len(left) // width, len(right) // width
    counts = np.empty(num_right if num_left == 1 else num_left, np.int64)
    of_left, of_right = width * (num_left > 1), width * (num_right > 1)
    for pair in range(len(counts)):
        counts[pair] = _equal_bytes(left, pair * of_left, right, pair * of_right, width)
    return counts


@inlined
def _equal_bytes(left: U64, left_start: int, right: U64, right_start: int, width: int) -> int:
    """The same of the two signatures that start there."""
    count = _0
    for number in range(np.uint64(width)):
        bits = left[np.uint64(left_start) + number] ^ right[np.uint64(right_start) + number]
        # The highest bit of each byte of `zeros` is 1 where that byte of `bits` is 0.
        zeros = ~(((bits & _LOW_SEVEN_BITS) + _LOW_SEVEN_BITS) | bits | _LOW_SEVEN_BITS)
        count += ((zeros >> _7) * _ONES) >> _TOP_BYTE
    return int(count)
