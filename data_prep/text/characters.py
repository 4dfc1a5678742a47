"""Characters beyond ASCII: which belong to words, and which scripts are written without spaces.

A character of a script without spaces is a token of its own, as in the literature on multilingual
deduplication (character n-grams). About two of Han, three of Kana, and four of Thai and its
relatives make up a word. Tibetan separates its syllables with a mark, so these are words.
"""

import unicodedata
from functools import cache

import numpy as np
import numpy.typing as npt

NOT_WORD, WORD, NUMBER, EXTEND, IDEOGRAPH, KANA, LETTER_OF_RUN = range(7)
"""Kinds of characters. EXTEND continues a token and starts none; the kinds from IDEOGRAPH on are
those of scripts without spaces."""

WIDTH_OF_WORD = 12
WIDTHS = np.array([12, 12, 12, 12, 6, 4, 3], dtype=np.int64)
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

Kinds = npt.NDArray[np.uint8]


@cache
def _table() -> Kinds:
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


def kinds_of(data: Kinds, leads: npt.NDArray[np.int64]) -> tuple[Kinds, npt.NDArray[np.int64]]:
    """(kind, bytes) of the characters of UTF-8 whose first bytes are at `leads`: [C], [C].

    All of them are of two bytes and more.
    """
    first = data[leads]
    sizes = 2 + (first >= 0xE0).astype(np.int64) + (first >= 0xF0)
    kinds = np.empty(len(leads), dtype=np.uint8)
    table = _table()
    for size, mask in ((2, 0x1F), (3, 0x0F), (4, 0x07)):
        chosen = np.flatnonzero(sizes == size)
        if not len(chosen):
            continue
        at = leads[chosen]
        code = (first[chosen] & np.uint8(mask)).astype(np.int32)
        for offset in range(1, size):
            code <<= 6
            code |= data[at + offset] & np.uint8(0x3F)
        kinds[chosen] = table[code]
    return kinds, sizes
