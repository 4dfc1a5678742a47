"""Looks for a few words in texts. Legend: D texts, T tokens, W words."""

import numpy as np

from data_prep.kernels.compiled import FLAG, HASH, I64, INTEGER, U64, Flags, compiled, read
from data_prep.kernels.hashing import ODD_0

_1 = np.uint64(1)
_NONE = np.int32(-1)
_PLACES_PER_WORD = 16


@compiled(read(HASH), read(INTEGER), read(FLAG), read(HASH))
def words_in(hashes: U64, first_tokens: I64, texts: Flags, words: U64) -> Flags:
    """Whether each of the chosen `texts` ([D]) has each of the words, whose hashes are given: [D,
    W]."""
    found = np.zeros((len(texts), len(words)), np.bool_)
    bits = np.uint64(1)
    while (_1 << bits) < np.uint64(_PLACES_PER_WORD * len(words)):
        bits += _1
    shift, mask = np.uint64(64) - bits, (_1 << bits) - _1
    table = np.full(np.int64(_1 << bits), _NONE, np.int32)
    for word in range(len(words)):
        place = words[word] * ODD_0 >> shift
        while table[place] != _NONE:
            place = (place + _1) & mask
        table[place] = word
    for text in range(len(texts)):
        if not texts[text]:
            continue
        for token in range(np.uint64(first_tokens[text]), np.uint64(first_tokens[text + 1])):
            place = hashes[token] * ODD_0 >> shift
            while table[place] != _NONE:
                at = np.uint64(table[place])
                if words[at] == hashes[token]:
                    found[text, at] = True
                    break
                place = (place + _1) & mask
    return found
