"""Many texts as one array of bytes, so that numpy finds and hashes all their words at once.

A token is a sequence of letters and digits, in lower case (ASCII only), or a single character of a
script that is written without spaces (`data_prep.text.characters`). All other characters, ASCII or
not, are punctuation. Where words are counted, a token counts as a word or as a part of one.
Legend: D documents, T tokens, B bytes of the batch.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.text.characters import (
    EXTEND,
    IDEOGRAPH,
    NOT_WORD,
    NUMBER,
    WIDTH_OF_WORD,
    WIDTHS,
    kinds_of,
)
from data_prep.text.hashes import I64, U64, chain_powers, hashes_of_tokens, mixed
from data_prep.text.normalise import SEPARATOR
from data_prep.text.recurring import ranges, recurring_pairs

__all__ = ["I64", "U64", "TextBatch", "mixed"]

_NEWLINE, _RECORD = 10, SEPARATOR[0]
_TAIL = bytes(16)  # so that eight bytes can be read at any word's end
_FOLD = bytes(
    byte + 32 if 65 <= byte <= 90 else byte if bytes([byte]).isalnum() or byte >= 128 else 0
    for byte in range(256)
)


class TextBatch:
    """Texts one after the other, with their words."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        self.texts = texts
        content = SEPARATOR + SEPARATOR.join(texts) + SEPARATOR + _TAIL
        self.data = np.frombuffer(content, dtype=np.uint8)  # [B]
        self._folded = np.frombuffer(content.translate(_FOLD), dtype=np.uint8)  # [B]
        lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        self.ends = np.cumsum(lengths + 1)  # [D] position of each text's separator
        self.starts = self.ends - lengths  # [D]

    @property
    def lengths(self) -> I64:
        """Bytes of each text: [D]."""
        return self.ends - self.starts

    @cached_property
    def _characters(self) -> tuple[I64, npt.NDArray[np.uint8], I64]:
        """(first byte, kind, bytes) of each character that is not ASCII: [C], [C], [C]."""
        leads = np.flatnonzero(self.data >= 0xC0)
        return leads, *kinds_of(self.data, leads)

    @cached_property
    def _kinds(self) -> npt.NDArray[np.uint8] | None:
        """The kind of the character that starts at each byte, 0 elsewhere: [B]; None for ASCII."""
        leads, of_characters, _ = self._characters
        if not len(leads):
            return None
        kinds = np.zeros(len(self.data), dtype=np.uint8)
        kinds[leads] = of_characters
        return kinds

    @cached_property
    def token_bounds(self) -> tuple[I64, I64]:
        """First byte of each token, and the byte after its last: [T], [T]."""
        inside = self._folded != 0
        leads, kinds, sizes = self._characters
        if not len(leads):
            return _edges(inside)
        breaking = np.flatnonzero(kinds == NOT_WORD)
        for offset in range(4):
            at = leads[breaking[sizes[breaking] > offset]]
            inside[at + offset] = False
        extending = np.flatnonzero(kinds == EXTEND)
        for offset in range(4):
            at = leads[extending[sizes[extending] > offset]]
            inside[at + offset] = inside[at - 1]
        alone = np.flatnonzero(kinds >= IDEOGRAPH)
        if not len(alone):
            return _edges(inside)
        cut = np.zeros(len(inside), dtype=bool)
        cut[leads[alone]] = True
        cut[leads[alone] + sizes[alone]] = True
        cut[leads[extending]] = False
        starts = inside[1:] & (cut[1:] | ~inside[:-1])
        ends = inside[:-1] & (cut[1:] | ~inside[1:])
        return np.flatnonzero(starts) + 1, np.flatnonzero(ends) + 1

    @cached_property
    def _widths(self) -> I64 | None:
        """Twelfths of a word that each token counts as: [T]; None if all are whole words."""
        if self._kinds is None or not (self._kinds >= IDEOGRAPH).any():
            return None
        starts, _ = self.token_bounds
        widths: I64 = WIDTHS[self._kinds[starts]]
        return widths

    @cached_property
    def _width_before(self) -> I64:
        """Twelfths of a word before each token, and finally of all tokens: [T + 1]."""
        if self._widths is None:
            return np.arange(len(self.token_bounds[0]) + 1) * WIDTH_OF_WORD
        return np.append(0, np.cumsum(self._widths))

    @cached_property
    def _token_after(self) -> I64:
        """The first token after which more twelfths of a word are full than each number of them."""
        tokens = np.arange(1, len(self._width_before))
        return np.repeat(tokens, np.diff(self._width_before))

    @cached_property
    def first_tokens(self) -> I64:
        """Index of the first token of each text, and finally the number of tokens: [D + 1]."""
        starts, _ = self.token_bounds
        return np.append(np.searchsorted(starts, self.starts), len(starts))

    @property
    def token_counts(self) -> I64:
        """Tokens of each text: [D]."""
        return np.diff(self.first_tokens)

    @cached_property
    def word_counts(self) -> I64:
        """Words of each text, rounded up: [D]."""
        return self._words_between(self.first_tokens)

    def _words_between(self, bounds: I64) -> I64:
        """Words from each of the tokens `bounds` to the next one, rounded up."""
        return -(-np.diff(self._width_before[bounds]) // WIDTH_OF_WORD)

    @cached_property
    def token_hashes(self) -> U64:
        """A 64-bit hash of all bytes of each token: [T]."""
        return hashes_of_tokens(self._folded, *self.token_bounds)

    @cached_property
    def _chain(self) -> tuple[U64, U64]:
        """Powers of the multiplier of `chained`, and the sums from which the hash of any range of
        tokens follows: [T + 1], [T + 1]."""
        num = len(self.token_hashes)
        powers, inverses = chain_powers(num + 1)
        sums = np.zeros(num + 1, dtype=np.uint64)
        np.cumsum(self.token_hashes * inverses[:-1], dtype=np.uint64, out=sums[1:])
        return powers, sums

    def range_hashes(self, first: I64, end: I64) -> U64:
        """`chained` of the hashes of the tokens in [first, end) of each range: [R]. Empty ranges
        have hash 0."""
        powers, sums = self._chain
        return mixed((sums[end] - sums[first]) * powers[np.maximum(end - 1, 0)])

    @cached_property
    def token_text(self) -> I64:
        """Index of the text that each token belongs to: [T]."""
        return np.repeat(np.arange(len(self.texts)), self.token_counts)

    @cached_property
    def _text_end(self) -> I64:
        """The token after the last one of the text of each token: [T]."""
        return np.repeat(self.first_tokens[1:], self.token_counts)

    def tokens_of(self, texts: npt.NDArray[np.bool_]) -> I64:
        """The tokens of the chosen `texts` ([D]), ascending."""
        if texts.all():
            return np.arange(len(self.token_hashes))
        return ranges(self.first_tokens[:-1][texts], self.first_tokens[1:][texts])

    @cached_property
    def token_bytes_before(self) -> I64:
        """Bytes of all tokens before each token, and finally of all tokens: [T + 1]."""
        starts, ends = self.token_bounds
        return np.append(0, np.cumsum(ends - starts))

    @cached_property
    def word_bytes(self) -> I64:
        """Bytes of all words of each text: [D]."""
        return np.diff(self.token_bytes_before[self.first_tokens])

    @cached_property
    def spaced_word_counts(self) -> I64:
        """Words of each text in scripts with spaces: [D]."""
        if self._widths is None:
            return self.token_counts
        return self.sum_over_tokens(self._widths == WIDTH_OF_WORD)

    @cached_property
    def spaced_characters(self) -> I64:
        """Characters of these words: [D]."""
        starts, ends = self.token_bounds
        if self._kinds is None or not len(starts):
            return self.word_bytes
        lengths = ends - starts
        leads, _, sizes = self._characters
        token = np.searchsorted(starts, leads, side="right") - 1
        inside = (token >= 0) & (leads < ends[token])
        np.subtract.at(lengths, token[inside], sizes[inside] - 1)
        if self._widths is not None:
            lengths[self._widths < WIDTH_OF_WORD] = 0
        return self.sum_over_tokens(lengths)

    def letter_share(self) -> npt.NDArray[np.float64]:
        """The share of each text's tokens that start with a letter, of any script: [D]."""
        starts, _ = self.token_bounds
        letters = self._folded[starts] >= ord("a")
        if self._kinds is not None:
            letters &= self._kinds[starts] != NUMBER
        if self._widths is None:
            return self.sum_over_tokens(letters) / np.maximum(self.token_counts, 1)
        widths = np.diff(self._width_before[self.first_tokens])
        return self.sum_over_tokens(letters * self._widths) / np.maximum(widths, 1)

    def sum_over_tokens(self, values: npt.NDArray[Any]) -> I64:
        """The sum over the tokens of each text of a value per token: [T] to [D]."""
        sums = np.append(0, np.cumsum(values, dtype=np.int64))
        return np.diff(sums[self.first_tokens])

    def count_at(self, positions: I64) -> I64:
        """How many of the ascending byte `positions` are in each text: [D]."""
        return np.diff(np.searchsorted(positions, np.append(self.starts, len(self.data))))

    @cached_property
    def line_bounds(self) -> tuple[I64, I64]:
        """First byte of each line that is not empty, and the byte after its last: [L], [L]."""
        return self._between(np.flatnonzero((self.data == _NEWLINE) | (self.data == _RECORD)))

    @cached_property
    def paragraph_bounds(self) -> tuple[I64, I64]:
        """The same for paragraphs, which end at blank lines."""
        blank = (self.data[1:] == _NEWLINE) & (self.data[:-1] == _NEWLINE)
        breaks = self.data == _RECORD
        breaks[1:] |= blank
        return self._between(np.flatnonzero(breaks))

    @cached_property
    def ellipses(self) -> I64:
        """First byte of each ellipsis, ascending: of the last three dots in a row, or of the
        character."""
        dots = np.flatnonzero(self.data == ord("."))
        triple = dots[:-2][dots[2:] - dots[:-2] == 2]
        last = triple[np.diff(triple, append=triple[-1:] + 9) > 1]  # in more dots, only the end
        lead = np.flatnonzero(self.data == 0xE2)
        character = lead[(self.data[lead + 1] == 0x80) & (self.data[lead + 2] == 0xA6)]
        return np.sort(np.concatenate([last, character]))

    def _between(self, breaks: I64) -> tuple[I64, I64]:
        starts, ends = breaks[:-1] + 1, breaks[1:]
        held = ends > starts
        return starts[held], ends[held]

    def text_of(self, positions: I64) -> I64:
        """Index of the text that contains each byte position."""
        return np.searchsorted(self.starts, positions, side="right") - 1

    def unit_hashes(self, starts: I64) -> tuple[U64, I64]:
        """A hash of the tokens of each line or paragraph, and its words, by its start: [L], [L].
        One without words has hash 0."""
        token_starts, _ = self.token_bounds
        first = np.append(np.searchsorted(token_starts, starts), len(token_starts))
        return self.range_hashes(first[:-1], first[1:]), self._words_between(first)

    def token_ngrams(self, n: int) -> tuple[U64, I64]:
        """Hashes of all n-grams of tokens within texts, and the first token of each: [G], [G]."""
        num = max(len(self.token_hashes) - n + 1, 0)
        crosses = np.zeros(num + n, dtype=bool)  # n-grams that cross into the next text
        for k in range(1, n):
            first = self.first_tokens[1:-1] - k
            crosses[first[first >= 0]] = True
        first = np.flatnonzero(~crosses[:num])
        return self.range_hashes(first, first + n), first

    def word_ngrams(self, n: int) -> tuple[U64, I64, I64]:
        """Hashes of all word n-grams within texts, the first token of each and the one after its
        last: [G], [G], [G].

        An n-gram starts at every token and ends with the first token that makes n words full.
        """
        if self._widths is None:
            hashes, first = self.token_ngrams(n)
            return hashes, first, first + n
        first, end = self._ngrams_at(np.arange(len(self.token_text)), n)
        return self.range_hashes(first, end), first, end

    def recurring_ngrams(self, n: int, texts: npt.NDArray[np.bool_]) -> tuple[U64, I64, I64]:
        """Those of `word_ngrams` of the chosen `texts` ([D]) that may occur twice in their text:
        each pair of tokens within one does. Few others are among them."""
        if n == 1:
            first, end = self._ngrams_at(self.tokens_of(texts), n)
            return self.range_hashes(first, end), first, end
        pairs = first = self._recurring
        if not texts.all():
            bounds = np.searchsorted(pairs, self.first_tokens)
            first = pairs[ranges(bounds[:-1][texts], bounds[1:][texts])]
        if self._widths is None:
            # A run of n - 1 pairs; the last token of a text starts none.
            recurs = first[n - 2 :] - first[: max(len(first) - n + 2, 0)] == n - 2
            first = first[: len(recurs)][recurs]
            return self.range_hashes(first, first + n), first, first + n
        first, end = self._ngrams_at(first, n)
        recurs = np.searchsorted(pairs, end - 1) - np.searchsorted(pairs, first) == end - 1 - first
        first, end = first[recurs], end[recurs]
        return self.range_hashes(first, end), first, end

    def _ngrams_at(self, first: I64, n: int) -> tuple[I64, I64]:
        """The n-grams that start at the tokens `first` and end within their text, as (first token,
        token after the last)."""
        if self._widths is None:
            end = first + n
            inside = end <= self._text_end[first]
            return first[inside], end[inside]
        full = self._width_before[first] + n * WIDTH_OF_WORD
        inside = full <= self._width_before[self._text_end[first]]
        return first[inside], self._token_after[full[inside] - 1]

    @cached_property
    def _recurring(self) -> I64:
        return recurring_pairs(self.token_hashes, self.first_tokens)


def _edges(inside: npt.NDArray[np.bool_]) -> tuple[I64, I64]:
    """First position of each run of True, and the position after its last."""
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    return edges[0::2], edges[1::2]
