"""Characters beyond ASCII: which belong to words, and which scripts are written without spaces.

A character of a script without spaces is a token of its own, as in the literature on multilingual
deduplication (character n-grams). About two of Han, three of Kana, and four of Thai and its
relatives make up a word. Tibetan separates its syllables with a mark, so these are words.
"""

import unicodedata
from functools import cache

import numpy as np

from data_prep.kernels.compiled import U8, inlined

NOT_WORD, WORD, NUMBER, EXTEND, IDEOGRAPH, KANA, LETTER_OF_RUN = range(7)
"""Kinds of characters. EXTEND continues a token and starts none; the kinds from IDEOGRAPH on are
those of scripts without spaces."""

WIDTH_OF_WORD = 12
WIDTHS = np.array([12, 12, 12, 12, 6, 4, 3], dtype=np.uint8)
"""Twelfths of a word that a token counts as, by the kind of its first character."""

# Scripts of line-breaking class ID (ideographs and syllabaries), then of class SA (complex context:
# Thai, Lao, Khmer, Myanmar and the like), and Balinese and Javanese (UAX #14).
_IDEOGRAPHS = (
    (0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3021, 0x3035), (0x3038, 0x312F), (0x31A0, 0x31FF),
    (0x3400, 0x4DBF), (0x4E00, 0xA4CF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x16FE0, 0x18DFF),
    (0x1AFF0, 0x1B2FF), (0x20000, 0x3FFFF),
)  # fmt: skip
_KANA = ((0x3031, 0x3035), (0x303C, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F), (0x1AFF0, 0x1B16F))
_RUNS = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19DF), (0x1A20, 0x1AAF),
    (0x1B00, 0x1B7F), (0xA980, 0xA9FF), (0xAA60, 0xAADF), (0x11700, 0x1174F),
)  # fmt: skip
_EXTENDING = ((0x200C, 0x200D), (0xFE00, 0xFE0F), (0xE0100, 0xE01EF))
"""Joiners and variation selectors."""
_TABLED = 0x32400
"""Beyond it are only further ideographs, tags, variation selectors and private use."""


@cache
def kinds_of_code_points() -> U8:
    """The kind of each code point below 0x110000."""
    kinds = np.full(0x110000, WORD, dtype=np.uint8)  # private use, and what Unicode may add
    for first, last in _RUNS:
        kinds[first : last + 1] = LETTER_OF_RUN
    for first, last in _IDEOGRAPHS:
        kinds[first : last + 1] = IDEOGRAPH
    for first, last in _KANA:
        kinds[first : last + 1] = KANA
    in_run = kinds > EXTEND
    category = [unicodedata.category(chr(code))[0] for code in range(_TABLED)]
    major = np.array(category)
    kinds[:_TABLED][(major == "N") & ~in_run[:_TABLED]] = NUMBER
    other = np.isin(major, ["P", "S", "Z"])
    other[0x2E80:0x2FE0] = False  # radicals, which are symbols by category
    kinds[:_TABLED][other] = NOT_WORD
    for first, last in _EXTENDING:
        kinds[first : last + 1] = EXTEND
    return kinds


_A_LETTER = ord("a")
_1, _BITS = np.uint64(1), np.uint64(6)


@inlined
def character(data: U8, at: np.uint64, end: np.uint64, table: U8) -> tuple[np.uint64, np.uint8]:
    """(bytes, entry in a table of all code points) of a character of UTF-8 that is not ASCII; what
    is none is taken for a letter of one byte."""
    first = np.uint64(data[at])
    size, code = np.uint64(2), first & np.uint64(0x1F)
    if first >= 0xF0:
        size, code = np.uint64(4), first & np.uint64(0x07)
    elif first >= 0xE0:
        size, code = np.uint64(3), first & np.uint64(0x0F)
    if first < 0xC0 or first >= 0xF8 or at + size > end:
        return _1, table[_A_LETTER]
    for place in range(at + _1, at + size):
        byte = np.uint64(data[place])
        if byte & np.uint64(0xC0) != 0x80:
            return _1, table[_A_LETTER]
        code = code << _BITS | byte & np.uint64(0x3F)
    return (size, table[code]) if code < np.uint64(len(table)) else (_1, table[_A_LETTER])
