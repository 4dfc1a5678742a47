"""Many texts as one array of bytes, whose words are found and hashed at once.

A token is a sequence of letters and digits, in lower case (ASCII only), or a single character of a
script that is written without spaces (`data_prep.kernels.characters`). All other characters, ASCII
or not, are punctuation. Where words are counted, a token counts as a word or as a part of one.
Legend: D documents, T tokens, B bytes of the batch.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import xxhash

from data_prep.kernels.characters import WIDTH_OF_WORD, kinds_of_code_points
from data_prep.kernels.compiled import I64, U64, Flags
from data_prep.kernels.hashing import mixed
from data_prep.kernels.lines import Layout, layout_of, unit_words
from data_prep.kernels.tokens import LONG_TOKEN, Tokens, ngram_ranges, range_hashes, tokens_of
from data_prep.text.normalise import SEPARATOR

__all__ = ["I64", "U64", "Flags", "TextBatch"]

_TAIL = bytes(16)  # so that eight bytes can be read at any word's end
_TO_LOWER = bytes(byte + 32 if 65 <= byte <= 90 else byte for byte in range(256))


class TextBatch:
    """Texts one after the other, with their words."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        self.texts = texts
        content = SEPARATOR + SEPARATOR.join(texts) + SEPARATOR + _TAIL
        self.data = np.frombuffer(content, dtype=np.uint8)  # [B]
        lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        self.ends = np.cumsum(lengths + 1)  # [D] position of each text's separator
        self.starts = self.ends - lengths  # [D]

    @property
    def lengths(self) -> I64:
        """Bytes of each text: [D]."""
        return self.ends - self.starts

    @property
    def eight(self) -> U64:
        """The eight bytes from each byte on, as a number: [B - 7]."""
        return np.ndarray((len(self.data) - 7,), "<u8", self.data.data, strides=(1,))

    @cached_property
    def tokens(self) -> Tokens:
        """All tokens, with a 64-bit hash of all bytes of each."""
        tokens = tokens_of(self.data, self.eight, self.starts, self.ends, kinds_of_code_points())
        if tokens.num_long:
            starts, ends, hashes = tokens.starts, tokens.ends, tokens.hashes
            long = np.flatnonzero(ends - starts > LONG_TOKEN)
            content = [self.data[starts[t] : ends[t]].tobytes() for t in long.tolist()]
            digests = [xxhash.xxh3_64_intdigest(piece.translate(_TO_LOWER)) for piece in content]
            hashes[long] = mixed(np.array(digests, dtype=np.uint64))
        return tokens

    @property
    def token_bounds(self) -> tuple[I64, I64]:
        """First byte of each token, and the byte after its last: [T], [T]."""
        return self.tokens.starts, self.tokens.ends

    @property
    def token_hashes(self) -> U64:
        """A 64-bit hash of all bytes of each token: [T]."""
        return self.tokens.hashes

    @property
    def first_tokens(self) -> I64:
        """Index of the first token of each text, and finally the number of tokens: [D + 1]."""
        return self.tokens.first_tokens

    @property
    def token_counts(self) -> I64:
        """Tokens of each text: [D]."""
        return np.diff(self.first_tokens)

    @property
    def word_counts(self) -> I64:
        """Words of each text, rounded up: [D]."""
        return _full_words(self.tokens.word_widths)

    @cached_property
    def token_text(self) -> I64:
        """Index of the text that each token belongs to: [T]."""
        return np.repeat(np.arange(len(self.texts)), self.token_counts)

    @cached_property
    def layout(self) -> Layout:
        """Lines and paragraphs, and marks in them."""
        return layout_of(self.data, self.starts, self.ends)

    def unit_hashes(self, starts: I64) -> tuple[U64, I64]:
        """A hash of the tokens of each line or paragraph, and its words, by its start: [L], [L].
        One without words has hash 0."""
        first, widths = unit_words(starts, self.tokens.starts, self.tokens.widths)
        return self.range_hashes(first[:-1], first[1:]), _full_words(widths)

    def text_of(self, positions: I64) -> I64:
        """Index of the text that contains each byte position."""
        return np.searchsorted(self.starts, positions, side="right") - 1

    def range_hashes(self, first: I64, end: I64) -> U64:
        """A hash of the tokens in [first, end) of each range: [R]. Empty ranges have hash 0."""
        return range_hashes(self.token_hashes, first, end)

    def token_ngrams(self, n: int) -> tuple[U64, I64]:
        """Hashes of all n-grams of tokens within texts, and the first token of each: [G], [G]."""
        first, end = ngram_ranges(self.tokens.widths, self.first_tokens, n, True)
        return self.range_hashes(first, end), first

    def word_ngrams(self, n: int) -> tuple[U64, I64, I64]:
        """Hashes of all word n-grams within texts, the first token of each and the one after its
        last: [G], [G], [G].

        An n-gram starts at every token and ends with the first token that makes n words full.
        """
        first, end = ngram_ranges(self.tokens.widths, self.first_tokens, n, False)
        return self.range_hashes(first, end), first, end


def _full_words(widths: I64) -> I64:
    """The words of so many twelfths, rounded up."""
    words: I64 = -(-widths // WIDTH_OF_WORD)
    return words
