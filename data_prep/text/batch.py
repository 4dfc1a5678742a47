"""Many texts as one array of bytes, so that numpy finds and hashes all their words at once.

A word is a sequence of ASCII letters, digits and non-ASCII characters, in lower case (ASCII only).
Legend: D documents, W words, B bytes of the batch.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.text.normalise import SEPARATOR

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_NEWLINE, _RECORD = 10, SEPARATOR[0]
_TAIL = bytes(16)  # so that eight bytes can be read at any word's end
_FOLD = bytes(
    byte + 32 if 65 <= byte <= 90 else byte if bytes([byte]).isalnum() or byte >= 128 else 0
    for byte in range(256)
)
_LOW_BYTES = np.array([(1 << (8 * n)) - 1 for n in range(9)], dtype=np.uint64)
_ODD = np.array(
    [0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93],
    dtype=np.uint64,
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
    def word_bounds(self) -> tuple[I64, I64]:
        """First byte of each word, and the byte after its last: [W], [W]."""
        inside = self._folded != 0
        edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
        return edges[0::2], edges[1::2]

    @cached_property
    def first_words(self) -> I64:
        """Index of the first word of each text, and finally the number of words: [D + 1]."""
        starts, _ = self.word_bounds
        return np.append(np.searchsorted(starts, self.starts), len(starts))

    @property
    def word_counts(self) -> I64:
        """Words of each text: [D]."""
        return np.diff(self.first_words)

    @cached_property
    def word_hashes(self) -> U64:
        """A 64-bit hash of each word: [W].

        Of words longer than 24 bytes, the first 16, the last 8 and the length are hashed.
        """
        starts, ends = self.word_bounds
        lengths = ends - starts
        eight = np.ndarray((len(self._folded) - 7,), "<u8", self._folded.data, strides=(1,))
        hashes = (eight[starts] & _LOW_BYTES[np.minimum(lengths, 8)]) * _ODD[0]
        long = np.flatnonzero(lengths > 8)
        more = np.minimum(lengths[long] - 8, 8)
        hashes[long] += (eight[starts[long] + 8] & _LOW_BYTES[more]) * _ODD[1]
        longer = np.flatnonzero(lengths > 16)
        hashes[longer] += (eight[ends[longer] - 8] ^ lengths[longer].astype(np.uint64)) * _ODD[2]
        return mixed(hashes)

    @cached_property
    def word_text(self) -> I64:
        """Index of the text that each word belongs to: [W]."""
        return np.repeat(np.arange(len(self.texts)), self.word_counts)

    @cached_property
    def word_bytes_before(self) -> I64:
        """Bytes of all words before each word, and finally of all words: [W + 1]."""
        starts, ends = self.word_bounds
        return np.append(0, np.cumsum(ends - starts))

    @cached_property
    def word_bytes(self) -> I64:
        """Bytes of all words of each text: [D]."""
        return np.diff(self.word_bytes_before[self.first_words])

    @property
    def word_starts_with_letter(self) -> npt.NDArray[np.bool_]:
        """Whether each word starts with a letter (any non-ASCII character counts as one): [W]."""
        starts, _ = self.word_bounds
        return self._folded[starts] >= ord("a")

    def sum_over_words(self, values: npt.NDArray[Any]) -> I64:
        """The sum over the words of each text of a value per word: [W] to [D]."""
        sums = np.append(0, np.cumsum(values, dtype=np.int64))
        return np.diff(sums[self.first_words])

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
        """A hash of the words of each line or paragraph, and their number, by its start: [L], [L].
        One without words has hash 0."""
        word_starts, _ = self.word_bounds
        first = np.append(np.searchsorted(word_starts, starts), len(word_starts))
        counts = np.diff(first)
        position = np.arange(first[0], len(word_starts)) - np.repeat(first[:-1], counts)
        weighted = self.word_hashes[first[0] :] * (2 * position + 1).astype(np.uint64)
        sums = np.append(np.uint64(0), np.cumsum(weighted, dtype=np.uint64))
        bounds = first - first[0]
        return mixed(sums[bounds[1:]] - sums[bounds[:-1]]), counts

    def ngram_hashes(self, n: int) -> tuple[U64, I64]:
        """Hashes of all word n-grams within texts, and the first word of each: [G], [G]."""
        num = max(len(self.word_hashes) - n + 1, 0)
        hashes = chained([self.word_hashes[k : k + num] for k in range(n)])
        crosses = np.zeros(num + n, dtype=bool)  # n-grams that cross into the next text
        for k in range(1, n):
            first = self.first_words[1:-1] - k
            crosses[first[first >= 0]] = True
        crosses = crosses[:num]
        first = np.flatnonzero(~crosses)
        return hashes[first], first


def chained(columns: Sequence[U64]) -> U64:
    """One hash per row of the hashes in `columns`, which depends on their order."""
    result = columns[0].copy()
    for column in columns[1:]:
        result *= _ODD[3]
        result += column
    return mixed(result)


def mixed(hashes: U64) -> U64:
    """Mixes every bit of the input into all bits; changes `hashes` in place."""
    hashes ^= hashes >> np.uint64(32)
    hashes *= _ODD[1]
    hashes ^= hashes >> np.uint64(29)
    return hashes
