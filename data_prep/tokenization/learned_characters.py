"""The characters of a corpus that an existing vocabulary has no token for.

No pair of tokens can make them: they are unknown to WordPiece, Unigram and plain BPE, and single
bytes, which are never merged, to a model with byte fallback. They become tokens before any pair
does, the most frequent ones first.
"""

import unicodedata
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from typing import NamedTuple

from data_prep.tokenization.learned_tokens import MIN_FREQUENCY

CHARACTER_COVERAGE = 0.9999
"""Share of the characters of a corpus that have a token in the end, above the default of
SentencePiece (`character_coverage` 0.9995; Kudo and Richardson 2018): to WordPiece a word with one
unknown character is unknown as a whole. The rest is noise: emoji, damaged text, foreign names."""
_NO_TEXT = frozenset({"Cc", "Cn", "Co", "Cs"})
"""Control characters, unassigned and private code points."""


class Marks(NamedTuple):
    """What a model adds to a character by its place in a word."""

    prefix: str = ""
    """Before all but the first, as WordPiece's ##."""
    suffix: str = ""
    """After the last."""

    def forms(self, word: str) -> Iterator[tuple[str, str]]:
        """(character, its token) of each character."""
        for place, character in enumerate(word):
            before = self.prefix if place else ""
            after = self.suffix if place == len(word) - 1 else ""
            yield character, before + character + after


def learn_characters(
    words: Mapping[str, int],
    vocabulary: Container[str],
    marks: Marks,
    num_tokens: int,
    byte_fallback: bool,
) -> dict[str, int]:
    """Up to `num_tokens` tokens of one character that `vocabulary` lacks, and their counts.

    The most frequent first, of equal ones the first in the order of code points, until
    CHARACTER_COVERAGE of all characters of `words` (with their counts) have a token; none that
    occurs less than MIN_FREQUENCY times. With `byte_fallback`, characters of one byte are left as
    they are: a token of their own would save nothing.
    """
    total = 0
    lacking: Counter[str] = Counter()
    for word, num in words.items():
        total += num * len(word)
        for character, token in marks.forms(word):
            if token in vocabulary or unicodedata.category(character) in _NO_TEXT:
                continue
            if not (byte_fallback and character.isascii()):
                lacking[token] += num
    without = lacking.total()
    found: dict[str, int] = {}
    for negative, token in sorted((-num, token) for token, num in lacking.items()):
        if (
            len(found) == num_tokens
            or without <= (1 - CHARACTER_COVERAGE) * total
            or -negative < MIN_FREQUENCY
        ):
            break
        found[token] = -negative
        without += negative
    return found
