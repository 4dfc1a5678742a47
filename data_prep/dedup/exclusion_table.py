"""One table of all that decontamination looks for, and where a batch of documents has it."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.dataset.atomic import save_array
from data_prep.dedup.hash_ranges import in_range
from data_prep.dedup.hash_table import HashTable, write_hash_table
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.sorted_files import SortedFiles
from data_prep.text.batch import I64, U64, TextBatch

NGRAMS_SUFFIX, SHORT_SUFFIX = ".ngrams.npy", ".short.npy"


class ExcludedFiles(NamedTuple):
    """The files of a part of the evaluation texts, see `evaluation.Excluded`."""

    ngrams: str
    """Name of the file."""
    short: str
    set_number: int


def write_exclusion_table(
    folder: Path,
    name: str,
    source: Path,
    files: Sequence[ExcludedFiles],
    num_hashes: int,
    limits: DedupLimits,
) -> tuple[int, list[list[int]], list[str]]:
    """Writes the table of all n-grams and short texts, each with the sets that have it.

    Returns its length, the combinations of sets, to which its values point, and the names of its
    files. The `files` are in the folder `source`; about `limits.table_ngrams` of their `num_hashes`
    are sorted together.
    """
    num_ranges = -(-num_hashes // limits.table_ngrams) or 1
    combinations = _Combinations(max((file.set_number for file in files), default=-1) + 1)
    ngrams = SortedFiles(source, [file.ngrams for file in files], limits)
    short = [np.empty((4, 0), np.uint64), *(np.load(source / file.short) for file in files)]

    def hashes_of(number: int) -> Iterator[tuple[U64, int]]:
        """The hashes of a range in each file, and the number of its set."""
        for place, file in enumerate(files):
            yield ngrams.slice(place, number, num_ranges)[0], file.set_number
            whole = short[place + 1][0]
            yield whole[in_range(whole, number, num_ranges)], file.set_number

    pieces = (combinations.of(*_joined(hashes_of(number))) for number in range(num_ranges))
    length, names = write_hash_table(folder, name, pieces, 2, num_hashes)
    prefixes, lengths = np.unique(np.concatenate([s[1] for s in short])), [s[2] for s in short]
    _, of_prefixes = write_hash_table(
        folder, f"{name}.prefixes", [prefixes[None]], 1, len(prefixes)
    )
    save_array(folder / f"{name}.lengths.npy", np.unique(np.concatenate(lengths)).astype(np.int64))
    return length, combinations.sets, [*names, *of_prefixes, f"{name}.lengths.npy"]


def _joined(found: Iterable[tuple[U64, int]]) -> tuple[U64, npt.NDArray[np.int64]]:
    """The hashes and the set of each, in the order of hash and set, each pair once."""
    hashes, sets = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for here, set_number in found:
        hashes.append(here)
        sets.append(np.full(len(here), set_number, dtype=np.int64))
    joined, of = np.concatenate(hashes), np.concatenate(sets)
    order = np.lexsort((of, joined))
    joined, of = joined[order], of[order]
    new = np.ones(len(joined), dtype=bool)
    new[1:] = (joined[1:] != joined[:-1]) | (of[1:] != of[:-1])
    return joined[new], of[new]


class _Combinations:
    """Numbers of combinations of sets; the first ones are the single sets."""

    def __init__(self, num_sets: int) -> None:
        self.sets = [[number] for number in range(num_sets)]
        self._numbers = {(number,): number for number in range(num_sets)}

    def of(self, hashes: U64, sets: npt.NDArray[np.int64]) -> U64:
        """Each different hash with the number of the combination of its sets: [2, n]."""
        starts = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)])
        ends = np.append(starts[1:], len(hashes))
        values = sets[starts]
        for place in np.flatnonzero(ends - starts > 1).tolist():
            combination = tuple(sets[starts[place] : ends[place]].tolist())
            if combination not in self._numbers:
                self._numbers[combination] = len(self.sets)
                self.sets.append(list(combination))
            values[place] = self._numbers[combination]
        return np.stack([hashes[starts], values.astype(np.uint64)])


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
    """A table that `write_exclusion_table` wrote."""

    def __init__(self, folder: Path, name: str, ngram_words: int, min_text_words: int) -> None:
        self._ngram_words, self._min_text_words = ngram_words, min_text_words
        self._table = HashTable(folder, name)
        self._prefixes = HashTable(folder, f"{name}.prefixes")
        self._lengths: list[int] = np.load(folder / f"{name}.lengths.npy").tolist()

    def matches(self, batch: TextBatch) -> Matches:
        """The n-grams and short texts that the documents of a batch have."""
        assert self._table.values is not None
        hashes, first, _ = batch.word_ngrams(self._ngram_words)
        text = batch.token_text[first]
        totals = np.bincount(text, minlength=len(batch.texts))
        found, places = self._table.find(hashes)
        texts, values = [text[found]], [self._table.values[places]]
        for short_texts, short_places in self._short_texts(batch):
            texts.append(short_texts)
            values.append(self._table.values[short_places])
        return Matches(np.concatenate(texts), np.concatenate(values).astype(np.int64), totals)

    def _short_texts(self, batch: TextBatch) -> Iterator[tuple[I64, I64]]:
        """(text, place in the table) of the short texts, by their lengths."""
        if not self._lengths:
            return
        # Where a text starts as a short one does. There are few such places, so that only these
        # need a hash for each of the lengths.
        starts, first = batch.token_ngrams(self._min_text_words)
        first = first[self._prefixes.find(starts)[0]]
        of_first = batch.token_text[first]
        text_end = batch.first_tokens[of_first + 1]
        for length in self._lengths if len(first) else ():
            fits = first + length <= text_end
            found, places = self._table.find(batch.range_hashes(first[fits], first[fits] + length))
            yield of_first[fits][found], places
