"""Where a batch of documents has what decontamination looks for."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from data_prep.dedup.hash_table import HashTable
from data_prep.text.batch import I64, U64, TextBatch


class ExclusionFiles(NamedTuple):
    """The tables that the stage `exclusion` made, and what it found in all of their ranges."""

    folder: Path
    ngrams: Sequence[str]
    """Names of the ranges of the table of n-grams and short texts; its values are
    `combination_hash`."""
    prefixes: Sequence[str]
    """The same of the first `min_text_words` tokens of short texts; none if there are none."""
    combinations: Sequence[Sequence[int]]
    """The combinations of evaluation sets, each by the numbers of its sets."""
    lengths: Sequence[int]
    """Numbers of tokens that short texts have."""

    @property
    def num_files(self) -> int:
        """That are opened for a lookup."""
        return 3 * len(self.ngrams) + 2 * len(self.prefixes)


def combination_hash(sets: Sequence[int]) -> int:
    """The number that names a combination of sets in all ranges of a table."""
    return xxhash.xxh3_64_intdigest(np.array(sets, dtype="<u4").tobytes())


class Matches(NamedTuple):
    """Where documents have what is looked for: a token of a text starts each match."""

    texts: I64
    """The text of each match: [M]."""
    combinations: I64
    """The combination of sets of each match: [M]."""
    totals: I64
    """N-grams of each text, found or not: [D]."""

    def of_texts(self, chosen: npt.NDArray[np.bool_]) -> "Matches":
        """Only those of the `chosen` texts: [D]."""
        inside = chosen[self.texts]
        return Matches(self.texts[inside], self.combinations[inside], self.totals)

    def counts(self, chosen: npt.NDArray[np.bool_] | None = None) -> I64:
        """The matches, or the `chosen` ones ([M]), of each text, no more than its n-grams: [D].

        A text shorter than an n-gram counts as one.
        """
        texts = self.texts if chosen is None else self.texts[chosen]
        found = np.bincount(texts, minlength=len(self.totals))
        return np.minimum(found, np.maximum(self.totals, 1))


class ExclusionTable:
    """All that decontamination looks for."""

    def __init__(self, files: ExclusionFiles, ngram_words: int, min_text_words: int) -> None:
        self._ngram_words, self._min_text_words = ngram_words, min_text_words
        self._table = HashTable(files.folder, files.ngrams)
        self._prefixes = HashTable(files.folder, files.prefixes) if files.prefixes else None
        self._lengths = files.lengths
        hashes = np.array([combination_hash(sets) for sets in files.combinations], dtype=np.uint64)
        self._combination_of = np.argsort(hashes)
        self._combination_hashes = hashes[self._combination_of]

    def matches(self, batch: TextBatch) -> Matches:
        """The n-grams and short texts that the documents of a batch have."""
        hashes, first, _ = batch.word_ngrams(self._ngram_words)
        text = batch.token_text[first]
        totals = np.bincount(text, minlength=len(batch.texts))
        found, of_found = self._table.find(hashes)
        texts, values = [text[found]], [of_found]
        for short_texts, of_short in self._short_texts(batch):
            texts.append(short_texts)
            values.append(of_short)
        places = np.searchsorted(self._combination_hashes, np.concatenate(values))
        return Matches(np.concatenate(texts), self._combination_of[places], totals)

    def _short_texts(self, batch: TextBatch) -> Iterator[tuple[I64, U64]]:
        """(text, value in the table) of the short texts, by their lengths."""
        if self._prefixes is None:
            return
        # Where a text starts as a short one does. There are few such places, so that only these
        # need a hash for each of the lengths.
        starts, first = batch.token_ngrams(self._min_text_words)
        first = first[self._prefixes.find(starts)[0]]
        of_first = batch.token_text[first]
        text_end = batch.first_tokens[of_first + 1]
        for length in self._lengths if len(first) else ():
            fits = first + length <= text_end
            found, values = self._table.find(batch.range_hashes(first[fits], first[fits] + length))
            yield of_first[fits][found], values
