"""Patterns are tried only at the places where a compiled loop finds that they may match."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np

from data_prep.kernels.compiled import I64, U8
from data_prep.kernels.places import places_of

Find = Callable[[U8, I64, I64], I64]
"""(bytes of all texts, starts of texts, their ends) to ascending positions."""
Replace = Callable[[bytes, Sequence[int]], tuple[bytes, int]]
"""(a text, positions in it) to (the text with placeholders, their number)."""
Match = re.Match[bytes]


def replaced_at_places(texts: list[bytes], kind: int, replace: Replace) -> int:
    """Replaces in the `texts` that have places of a kind of `data_prep.kernels.places`; the number
    of replacements."""
    return replaced_where(texts, partial(places_of, kind=kind), replace)


def replaced_where(texts: list[bytes], find: Find, replace: Replace) -> int:
    """Replaces in the `texts` that have places; the number of replacements."""
    data = np.frombuffer(b"".join(texts), dtype=np.uint8)
    ends = np.cumsum(np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)))
    starts = np.append(0, ends)[: len(texts)]
    places = find(data, starts, ends)
    bounds = np.searchsorted(places, np.append(starts, len(data)))
    count = 0
    for number in np.flatnonzero(np.diff(bounds)).tolist():
        here = (places[bounds[number] : bounds[number + 1]] - starts[number]).tolist()
        texts[number], found = replace(texts[number], here)
        count += found
    return count


def substituted(
    pattern: re.Pattern[bytes], text: bytes, starts: Iterable[int], of: Callable[[Match], bytes]
) -> bytes:
    """`pattern.sub(of, text)`, where matches start at some of the ascending `starts` only."""
    pieces: list[bytes] = []
    end = 0
    for start in starts:
        match = pattern.match(text, start) if start >= end else None
        if match is not None:
            pieces += [text[end:start], of(match)]
            end = match.end()
    return b"".join([*pieces, text[end:]])


def replaced_if(
    pattern: re.Pattern[bytes],
    is_meant: Callable[[Match], bool],
    placeholder: bytes,
    text: bytes,
    starts: Iterable[int],
) -> tuple[bytes, int]:
    """(the text with `placeholder` for each match that `is_meant`, their number)."""
    count = 0

    def of(match: Match) -> bytes:
        nonlocal count
        if not is_meant(match):
            return match[0]
        count += 1
        return placeholder

    return substituted(pattern, text, starts, of), count
