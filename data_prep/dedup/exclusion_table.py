"""One table of all that decontamination looks for, and where a batch of documents has it."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.dataset.atomic import save_array
from data_prep.dedup.buckets import Buckets
from data_prep.dedup.hash_ranges import range_of
from data_prep.dedup.hash_table import HashTable, write_hash_table
from data_prep.dedup.limits import DedupLimits
from data_prep.text.batch import I64, U64, TextBatch

NGRAMS_SUFFIX, SHORT_SUFFIX = ".ngrams.npy", ".short.npy"
_AT_ONCE = 1 << 20


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
    files. The `files` are in the folder `source`; each is read once. About `limits.table_ngrams` of
    their `num_hashes` are sorted together, at 80 bytes each; all others are in temporary files.
    """
    num_ranges = -(-num_hashes // limits.table_ngrams) or 1
    combinations = _Combinations(max((file.set_number for file in files), default=-1) + 1)
    with (
        Buckets(folder, num_ranges, 2, np.uint64) as hashes,
        Buckets(folder, num_ranges, 1, np.uint64) as prefixes,
    ):
        lengths = _divide(source, files, num_ranges, hashes, prefixes)
        pieces = (combinations.of(*_joined(hashes.read(k))) for k in range(num_ranges))
        length, names = write_hash_table(folder, name, pieces, 2, num_hashes)
        num_prefixes = sum(_unique(prefixes.read(k)).shape[1] for k in range(num_ranges))
        _, of_prefixes = write_hash_table(
            folder,
            f"{name}.prefixes",
            (_unique(prefixes.read(k)) for k in range(num_ranges)),
            *(1, num_prefixes),
        )
    save_array(folder / f"{name}.lengths.npy", np.array(sorted(lengths), dtype=np.int64))
    return length, combinations.sets, [*names, *of_prefixes, f"{name}.lengths.npy"]


def _divide(
    source: Path,
    files: Sequence[ExcludedFiles],
    num_ranges: int,
    hashes: Buckets,
    prefixes: Buckets,
) -> set[int]:
    """Adds what is in the `files` to its ranges of hashes: (hash, set) of n-grams and short texts,
    and the prefixes of these. The lengths of the short texts, in tokens."""
    lowest = np.array([range_of(k, num_ranges)[0] for k in range(1, num_ranges)], dtype=np.uint64)
    lengths: set[int] = set()
    for file in files:
        for (ngrams,) in _pieces(source / file.ngrams):
            _add_hashes(hashes, lowest, ngrams, file.set_number)
        for whole, first, length, _ in _pieces(source / file.short):
            _add_hashes(hashes, lowest, whole, file.set_number)
            prefixes.add(np.searchsorted(lowest, first, side="right"), first[None])
            lengths.update(np.unique(length).tolist())
    return lengths


def _pieces(path: Path) -> Iterator[U64]:
    """The array [rows, n], or [n] as [1, n], in a file: [rows, piece], a piece at a time."""
    array = np.atleast_2d(np.load(path, mmap_mode="r"))
    for at in range(0, array.shape[1], _AT_ONCE):
        yield np.array(array[:, at : at + _AT_ONCE])


def _add_hashes(buckets: Buckets, lowest: U64, hashes: U64, set_number: int) -> None:
    sets = np.full(len(hashes), set_number, dtype=np.uint64)
    buckets.add(np.searchsorted(lowest, hashes, side="right"), np.stack([hashes, sets]))


def _unique(pieces: Iterable[U64]) -> U64:
    """The different numbers of pieces [1, n], ascending: [1, n]."""
    numbers: U64 = np.concatenate([np.empty((1, 0), np.uint64), *pieces], axis=1)
    return np.unique(numbers)[None]


def _joined(pieces: Iterable[U64]) -> tuple[U64, npt.NDArray[np.int64]]:
    """The hashes and the set of each, of pieces [2, n], in the order of hash and set, each pair
    once."""
    both: U64 = np.concatenate([np.empty((2, 0), np.uint64), *pieces], axis=1)
    joined, of = both[0], both[1].astype(np.int64)
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
