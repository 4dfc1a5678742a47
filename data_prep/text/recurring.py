"""Pairs of tokens that occur more than once in a text: few n-grams without them are repeated.

An n-gram that is repeated consists of such pairs only, so only those n-grams need to be hashed and
compared. Legend: D texts, T tokens of a batch.
"""

import numpy as np

from data_prep.text.hashes import I64, U64

TEXT_KEY, _PAIR_KEY = np.uint64(0xA0761D6478BD642F), np.uint64(0xE7037ED1A0B428DB)
_PLACES_PER_PAIR = 4


def recurring_pairs(token_hashes: U64, first_tokens: I64) -> I64:
    """The tokens that, with the next one of their text, are a pair that may occur elsewhere in the
    text, ascending. A small table says so, in which few different pairs share a place.

    `token_hashes` [T]; `first_tokens` [D + 1] are the first token of each text, and finally T.
    """
    num = len(token_hashes)
    if num < 2:
        return np.empty(0, dtype=np.int64)
    counts = np.diff(first_tokens)
    keys = token_hashes * _PAIR_KEY
    keys[:-1] += token_hashes[1:]
    keys ^= np.repeat(np.arange(1, len(counts) + 1, dtype=np.uint64) * TEXT_KEY, counts)
    keys >>= np.uint64(64 - (_PLACES_PER_PAIR * num).bit_length())
    places = keys.view(np.int64)
    recurs = np.bincount(places)[places] > 1
    recurs[first_tokens[1:][counts > 0] - 1] = False  # the last token of a text
    return np.flatnonzero(recurs)


def ranges(starts: I64, ends: I64) -> I64:
    """The whole numbers of each range [start, end), one range after the other."""
    sizes = ends - starts
    before = np.cumsum(sizes) - sizes
    numbers: I64 = np.arange(int(sizes.sum())) + np.repeat(starts - before, sizes)
    return numbers
