"""What repeats itself within a text: n-grams of words, lines and paragraphs.

Everything is compared by 64-bit hashes, in a table of places for each text. Legend: D texts, T
tokens, U units (lines or paragraphs) of a batch.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.kernels.characters import WIDTH_OF_WORD
from data_prep.kernels.compiled import (
    BYTE,
    FLAG,
    HASH,
    I64,
    INTEGER,
    U8,
    U64,
    Flags,
    compiled,
    inlined,
    read,
)
from data_prep.kernels.hashing import ODD_0, ODD_3

_0, _1 = np.uint64(0), np.uint64(1)
_WIDTH_OF_WORD = np.uint64(WIDTH_OF_WORD)
_TOKENS = (read(HASH), read(BYTE), read(INTEGER), read(INTEGER), read(INTEGER))
I32 = npt.NDArray[np.int32]
_NONE = np.int32(-1)


@inlined
def _table(num_items: np.uint64) -> tuple[I32, np.uint64]:
    """An empty table with room for some items, and by how many bits a hash is shifted to be a place
    in it."""
    bits = np.uint64(4)
    while (_1 << bits) < num_items + num_items:
        bits += _1
    return np.full(np.int64(_1 << bits), _NONE, np.int32), np.uint64(64) - bits


@compiled(read(HASH), read(INTEGER), read(FLAG))
def recurring_pairs(hashes: U64, first_tokens: I64, texts: Flags) -> Flags:
    """Whether each token of the chosen `texts` ([D]) starts a pair of tokens that its text has more
    than once: [T]."""
    recurs = np.zeros(len(hashes), np.bool_)
    for text in range(len(texts)):
        first, last = np.uint64(first_tokens[text]), np.uint64(first_tokens[text + 1])
        if not texts[text] or last < first + np.uint64(3):
            continue
        last -= _1
        table, shift = _table(last - first)
        mask = np.uint64(len(table) - 1)
        for token in range(first, last):
            left, right = hashes[token], hashes[token + _1]
            place = (left * ODD_0 + right) * ODD_3 >> shift
            while True:
                at = table[place]
                if at == _NONE:
                    table[place] = token - first
                    break
                other = first + np.uint64(at)
                if hashes[other] == left and hashes[other + _1] == right:
                    recurs[other] = recurs[token] = True
                    break
                place = (place + _1) & mask
    return recurs


class _Grams(NamedTuple):
    """The n-grams of a text that may be repeated, ascending."""

    first: U64
    """First token of each."""
    end: U64
    """The token after its last."""
    earliest: U64
    """The number of the first one that is equal."""


@inlined
def _grams(
    hashes: U64, widths: U8, first: np.uint64, last: np.uint64, n: int, recurs: Flags
) -> _Grams:
    """Those of the tokens [first, last) of a text: from every token to the first one that makes n
    words full. All pairs of tokens within a repeated one recur."""
    firsts, ends = np.empty(last - first, np.uint64), np.empty(last - first, np.uint64)
    num, end, width = _0, first, _0
    broken = first  # no gram before this token consists of recurring pairs alone
    full = np.uint64(n) * _WIDTH_OF_WORD
    for token in range(first, last):
        while width < full and end < last:
            if end > first and not recurs[end - _1]:
                broken = end
            width += widths[end]
            end += _1
        if width < full:
            break
        if token >= broken:
            firsts[num], ends[num] = token, end
            num += _1
        width -= widths[token]
    return _Grams(firsts[:num], ends[:num], _earliest(hashes, firsts[:num], ends[:num]))


@inlined
def _earliest(hashes: U64, firsts: U64, ends: U64) -> U64:
    """The number of the first range of tokens that is equal to each."""
    num = np.uint64(len(firsts))
    keys, earliest = np.empty(num, np.uint64), np.empty(num, np.uint64)
    table, shift = _table(num)
    mask = np.uint64(len(table) - 1)
    for gram in range(num):
        key = _0
        for token in range(firsts[gram], ends[gram]):
            key = key * ODD_3 + hashes[token]
        keys[gram] = key
        place = key * ODD_0 >> shift
        while True:
            at = table[place]
            if at == _NONE:
                table[place] = gram
                earliest[gram] = gram
                break
            if keys[np.uint64(at)] == key:
                earliest[gram] = np.uint64(at)
                break
            place = (place + _1) & mask
    return earliest


@compiled(*_TOKENS, read(FLAG), INTEGER, read(FLAG))
def most_common_bytes(
    hashes: U64,
    widths: U8,
    starts: I64,
    ends: I64,
    first_tokens: I64,
    texts: Flags,
    n: int,
    recurs: Flags,
) -> I64:
    """Bytes of the words of the n-gram that makes up most of each chosen text, all its occurrences:
    [D]. 0 where none occurs twice. `recurs`: of `recurring_pairs`."""
    most = np.zeros(len(texts), np.int64)
    for text in range(len(texts)):
        first, last = np.uint64(first_tokens[text]), np.uint64(first_tokens[text + 1])
        if not texts[text] or first == last:
            continue
        grams = _grams(hashes, widths, first, last, n, recurs)
        counts = np.zeros(len(grams.first), np.int64)
        for gram in range(np.uint64(len(grams.first))):
            counts[grams.earliest[gram]] += 1
        for gram in range(np.uint64(len(grams.first))):
            if counts[gram] > 1:
                size = 0
                for token in range(grams.first[gram], grams.end[gram]):
                    size += ends[token] - starts[token]
                most[text] = max(most[text], counts[gram] * size)
    return most


@compiled(*_TOKENS, read(FLAG), INTEGER, read(FLAG))
def repeated_bytes(
    hashes: U64,
    widths: U8,
    starts: I64,
    ends: I64,
    first_tokens: I64,
    texts: Flags,
    n: int,
    recurs: Flags,
) -> I64:
    """Bytes of the words in n-grams of each chosen text that occur in it before, no word counted
    twice: [D]. `recurs`: of `recurring_pairs`."""
    repeated = np.zeros(len(texts), np.int64)
    for text in range(len(texts)):
        first, last = np.uint64(first_tokens[text]), np.uint64(first_tokens[text + 1])
        if not texts[text] or first == last:
            continue
        grams = _grams(hashes, widths, first, last, n, recurs)
        covered = first
        for gram in range(np.uint64(len(grams.first))):
            if grams.earliest[gram] != gram:
                for token in range(max(covered, grams.first[gram]), grams.end[gram]):
                    repeated[text] += ends[token] - starts[token]
                covered = grams.end[gram]
    return repeated


class RepeatedUnits(NamedTuple):
    """Of the lines or paragraphs of each text, those with words: [D] each."""

    number: I64
    num_bytes: I64
    repeated: I64
    """Those that occur in it before."""
    repeated_bytes: I64


@compiled(read(HASH), read(INTEGER), read(INTEGER), read(INTEGER))
def repeated_units(hashes: U64, num_words: I64, sizes: I64, first_units: I64) -> RepeatedUnits:
    """Counts units by their hashes, words and bytes, [U] each; `first_units` [D + 1] are the first
    one of each text, and finally U."""
    num_texts = len(first_units) - 1
    number, num_bytes = np.zeros(num_texts, np.int64), np.zeros(num_texts, np.int64)
    repeated, repeated_bytes = np.zeros(num_texts, np.int64), np.zeros(num_texts, np.int64)
    for text in range(num_texts):
        first, last = np.uint64(first_units[text]), np.uint64(first_units[text + 1])
        table, shift = _table(last - first)
        mask = np.uint64(len(table) - 1)
        for unit in range(first, last):
            if num_words[unit] == 0:
                continue
            number[text] += 1
            num_bytes[text] += sizes[unit]
            place = hashes[unit] * ODD_0 >> shift
            while True:
                at = table[place]
                if at == _NONE:
                    table[place] = unit - first
                    break
                if hashes[first + np.uint64(at)] == hashes[unit]:
                    repeated[text] += 1
                    repeated_bytes[text] += sizes[unit]
                    break
                place = (place + _1) & mask
    return RepeatedUnits(number, num_bytes, repeated, repeated_bytes)
