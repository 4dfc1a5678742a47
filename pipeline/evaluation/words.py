"""Words of a text that several tokenizers have in common, so that their models can be compared.

A word is a stretch of text between white space, or in scripts that write none between words a
stretch as short as the tokens allow. No token of any tokenizer crosses its ends, so every model is
asked for the same bytes.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tokenizers import Tokenizer

_WITHOUT_SPACES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x312F),  # CJK radicals to Bopomofo, with Kana
    (0x31F0, 0x9FFF),  # Kana extensions, CJK ideographs
    (0xA000, 0xA4CF),  # Yi
    (0xAA60, 0xAA7F),  # Myanmar extended
    (0xF900, 0xFAFF),  # CJK compatibility
    (0xFF00, 0xFFEF),  # full-width forms
    (0x20000, 0x3FFFF),  # CJK extensions
)
"""Ranges of characters of scripts that are written without spaces between words."""
_FIRSTS = [first for first, _ in _WITHOUT_SPACES]


@dataclass(frozen=True)
class Encoded:
    """A text as one tokenizer splits it, without special tokens around it."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    """[start, end) of each token in the text, without white space at its ends."""


@dataclass(frozen=True)
class Word:
    """A stretch of text, and its tokens by each tokenizer."""

    start: int
    end: int
    tokens: tuple[tuple[int, ...], ...]
    """For each tokenizer, the numbers of its tokens in the text."""


def encode(tokenizer: Tokenizer, text: str) -> Encoded:
    """`text` as `tokenizer` splits it."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    return Encoded(tuple(encoding.ids), tuple(_stripped(text, *s) for s in encoding.offsets))


def common_words(text: str, encodings: Sequence[Encoded]) -> list[Word]:
    """The words of `text`, in their order, with the tokens of each of `encodings`.

    A word that a tokenizer has no token for is left out: its normalizer removes it.
    """
    inside = bytearray(len(text) + 1)
    for encoding in encodings:
        for start, end in encoding.spans:
            inside[start + 1 : end] = b"\1" * max(0, end - start - 1)
    cuts = [0, *(n for n in range(1, len(text)) if not inside[n] and _may_cut(text, n)), len(text)]
    starts = [sorted((s, n) for n, (s, e) in enumerate(one.spans) if e > s) for one in encodings]
    words = []
    for first, last in pairwise(cuts):
        start, end = _stripped(text, first, last)
        if start == end:
            continue
        tokens = tuple(
            tuple(
                n for _, n in of_one[bisect.bisect_left(of_one, (start, -1)) : _upto(of_one, end)]
            )
            for of_one in starts
        )
        if all(tokens):
            words.append(Word(start, end, tokens))
    return words


def is_written_without_spaces(character: str) -> bool:
    """Whether `character` is of a script without spaces between words."""
    code = ord(character)
    place = bisect.bisect_right(_FIRSTS, code) - 1
    return place >= 0 and code <= _WITHOUT_SPACES[place][1]


def _upto(starts: list[tuple[int, int]], end: int) -> int:
    return bisect.bisect_left(starts, (end, -1))


def _may_cut(text: str, place: int) -> bool:
    before, after = text[place - 1], text[place]
    if before.isspace() or after.isspace():
        return True
    return is_written_without_spaces(before) or is_written_without_spaces(after)


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """[start, end) without white space at its ends; an empty range at `end` where that is all."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
