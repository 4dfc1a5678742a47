"""Counts words, and looks for a few of them. Legend: D texts, B bytes, T tokens, W words."""

import numpy as np

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
from data_prep.kernels.hashing import ODD_0

_1 = np.uint64(1)
_NONE = np.int32(-1)
_BLANK, _TAB, _RETURN = np.uint8(32), np.uint8(9), np.uint8(13)
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


@inlined
def _is_white_space(byte: np.uint8) -> bool:
    return bool(byte == _BLANK or (_TAB <= byte <= _RETURN))


@compiled(read(BYTE))
def words_between_spaces(data: U8) -> int:
    """How many pieces of `data` are separated by white space of ASCII."""
    num = int(len(data) > 0 and not _is_white_space(data[0]))
    for at in range(1, len(data)):
        num += int(_is_white_space(data[at - 1]) and not _is_white_space(data[at]))
    return num
