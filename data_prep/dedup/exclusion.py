"""Joins the n-grams of all evaluation texts to tables of hashes, a part for each range of hashes.

A part reads its slice of each file of n-grams, whose hashes ascend. Every file of documents is
looked up in all ranges of the tables, so there are few of them, whatever the number of n-grams.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.dedup.evaluation import (
    NGRAMS_SUFFIX,
    PREFIXES_SUFFIX,
    SHORT_SUFFIX,
    EvaluationPart,
    HeldoutPart,
)
from data_prep.dedup.exclusion_table import ExclusionFiles, combination_hash
from data_prep.dedup.hash_ranges import HashRangePart, range_parts
from data_prep.dedup.hash_table import SLOTS_PER_HASH, write_hash_table
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.sorted_files import SortedFiles
from data_prep.engine.resources import node_memory_bytes
from data_prep.engine.stage import PartOutput, Reads, Stage, StageResult
from data_prep.text.batch import I64, U64

NGRAMS, PREFIXES = "ngrams", "prefixes"
"""The two tables: n-grams and short texts; first tokens of short texts."""
_BYTES_PER_NGRAM = 8 + SLOTS_PER_HASH // 4
"""Of a table, that are looked up."""
_NOTICED_SHARE = 0.5
"""Of the memory of a node, taken by the tables."""


class SetFile(NamedTuple):
    """A file of hashes of one evaluation set."""

    name: str
    set_number: int


@dataclass(frozen=True, kw_only=True)
class ExclusionStage(Stage[HashRangePart]):
    """Joins these n-grams to tables of hashes, a part for each range of hashes."""

    name = "exclusion"
    version = 4
    output = "hash tables"

    ngrams: Path
    """Folder of the n-grams."""
    files: Mapping[str, Sequence[SetFile]]
    """By their suffix, those that are not empty."""
    num_hashes: Mapping[str, int]
    """In all files, by the source of parts."""
    limits: DedupLimits

    def reads_of(self, part: HashRangePart) -> Reads:
        suffixes = (PREFIXES_SUFFIX,) if part.source == PREFIXES else (NGRAMS_SUFFIX, SHORT_SUFFIX)
        return Reads(sum(len(self.files[suffix]) for suffix in suffixes), part.num_bytes)

    def notices(self) -> Iterator[str]:
        num_bytes, node_bytes = _BYTES_PER_NGRAM * self.num_hashes[NGRAMS], node_memory_bytes()
        if num_bytes > _NOTICED_SHARE * node_bytes:
            yield (
                f"{self.num_hashes[NGRAMS]:,} n-grams of evaluation texts and held-out documents: "
                f"the stage overlap looks all documents up in tables of {num_bytes / 1e9:,.1f} GB, "
                "and reads them from the disk again and again where a node has no memory left for "
                f"them (this one has {node_bytes / 1e9:,.1f} GB in all): lower heldout_share, or "
                "set decontaminate.heldout: false"
            )

    def run_part(self, folder: Path, part: HashRangePart) -> PartOutput:
        """Writes the range PART of a table. About `limits.table_ngrams` hashes are sorted together,
        at 110 bytes each."""
        expected = self.num_hashes[part.source] // part.num_ranges
        num_pieces = -(-expected // self.limits.table_ngrams) or 1
        num_ranges = part.num_ranges * num_pieces
        ranges = [(part.number * num_pieces + k, num_ranges) for k in range(num_pieces)]
        if part.source == PREFIXES:
            prefixes = self._set_files(PREFIXES_SUFFIX, 1)
            pieces = (np.unique(prefixes.slice(*place)[0])[None] for place in ranges)
            length, names = write_hash_table(
                folder, part.name, pieces, 1, expected, part.num_ranges
            )
            return PartOutput({"prefixes": length}, names)
        ngrams, short = self._set_files(NGRAMS_SUFFIX, 1), self._set_files(SHORT_SUFFIX, 3)
        joined = _Joined()
        pieces = (joined.table_of(ngrams.slice(*place), short.slice(*place)) for place in ranges)
        length, names = write_hash_table(folder, part.name, pieces, 2, expected, part.num_ranges)
        counts = {
            "ngrams": length,
            "combinations": sorted(joined.combinations),
            "lengths": sorted(joined.lengths),
        }
        return PartOutput(counts, names)

    def _set_files(self, suffix: str, num_rows: int) -> "_SetFiles":
        return _SetFiles(self.ngrams, self.files[suffix], num_rows, self.limits)


def exclusion_stage(
    set_names: Sequence[str],
    excluded: StageResult[EvaluationPart | HeldoutPart],
    limits: DedupLimits,
) -> ExclusionStage:
    """A part for each table, more for one of more than `limits.table_ngrams` hashes; `set_names`
    are in the order of the sets' numbers."""
    files = {
        suffix: [
            SetFile(f"{part.name}{suffix}", set_names.index(part.set_name))
            for part, record in excluded.with_records()
            if record[key]
        ]
        for suffix, key in (
            (NGRAMS_SUFFIX, "ngrams"),
            (SHORT_SUFFIX, "short"),
            (PREFIXES_SUFFIX, "prefixes"),
        )
    }
    num_hashes = {
        NGRAMS: excluded.total("ngrams") + excluded.total("short"),
        PREFIXES: excluded.total("prefixes"),
    }
    parts = range_parts(NGRAMS, _num_ranges(num_hashes[NGRAMS], limits), 8 * num_hashes[NGRAMS])
    if num_hashes[PREFIXES]:
        num_ranges = _num_ranges(num_hashes[PREFIXES], limits)
        parts += range_parts(PREFIXES, num_ranges, 8 * num_hashes[PREFIXES])
    return ExclusionStage(
        parts=parts,
        inputs={"ngrams": excluded.content_fingerprint},
        ngrams=excluded.folder,
        files=files,
        num_hashes=num_hashes,
        limits=limits,
    )


def _num_ranges(num_hashes: int, limits: DedupLimits) -> int:
    """A power of two, as a table wants it."""
    needed = -(-num_hashes // limits.table_ngrams) or 1
    return min(1 << (needed - 1).bit_length(), limits.table_ranges)


def exclusion_files(exclusion: StageResult[HashRangePart]) -> ExclusionFiles:
    """What the finished stage made."""
    names: dict[str, list[str]] = {NGRAMS: [], PREFIXES: []}
    combinations, lengths = set[tuple[int, ...]](), set[int]()
    for part, record in exclusion.with_records():
        names[part.source].append(part.name)
        if part.source == NGRAMS:
            combinations.update(map(tuple, record["combinations"]))
            lengths.update(record["lengths"])
    return ExclusionFiles(
        exclusion.folder,
        names[NGRAMS],
        names[PREFIXES],
        sorted(combinations),
        sorted(lengths),
    )


class _SetFiles:
    """Files of ascending hashes, each of a set."""

    def __init__(
        self, folder: Path, files: Sequence[SetFile], num_rows: int, limits: DedupLimits
    ) -> None:
        self._files = SortedFiles(folder, [file.name for file in files], limits)
        self._sets = np.array([file.set_number for file in files], dtype=np.int64)
        self._num_rows = num_rows

    def slice(self, number: int, num_ranges: int) -> tuple[U64, I64]:
        """(the columns of all files in a range of hashes [rows, n], the set of each [n])."""
        slices = [self._files.slice(k, number, num_ranges) for k in range(len(self._files))]
        sets = np.repeat(self._sets, [some.shape[1] for some in slices])
        return np.concatenate([np.empty((self._num_rows, 0), np.uint64), *slices], axis=1), sets


class _Joined:
    """What of a table was joined so far."""

    def __init__(self) -> None:
        self.combinations: dict[tuple[int, ...], int] = {}
        """Combinations of sets, each with its hash."""
        self.lengths: set[int] = set()
        """Numbers of tokens of short texts."""

    def table_of(self, ngrams: tuple[U64, I64], short: tuple[U64, I64]) -> U64:
        """Each different hash of n-grams and short texts, ascending, with the hash of the
        combination of its sets: [2, n]."""
        self.lengths.update(np.unique(short[0][1]).tolist())
        hashes = np.concatenate([ngrams[0][0], short[0][0]])
        order = np.argsort(hashes, kind="stable")  # which merges ascending runs
        hashes, sets = hashes[order], np.concatenate([ngrams[1], short[1]])[order]
        starts = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)])
        if not len(starts):
            return np.empty((2, 0), np.uint64)
        ends = np.append(starts[1:], len(hashes))
        lowest, highest = np.minimum.reduceat(sets, starts), np.maximum.reduceat(sets, starts)
        is_single = lowest == highest
        by_set = np.zeros(highest.max() + 1, np.uint64)
        for number in np.flatnonzero(np.bincount(lowest[is_single])).tolist():
            by_set[number] = self._hash_of((number,))
        values = by_set[lowest]
        for place in np.flatnonzero(~is_single).tolist():
            several = set(sets[starts[place] : ends[place]].tolist())
            values[place] = self._hash_of(tuple(sorted(several)))
        return np.stack([hashes[starts], values])

    def _hash_of(self, sets: tuple[int, ...]) -> int:
        if sets not in self.combinations:
            self.combinations[sets] = combination_hash(sets)
        return self.combinations[sets]
