"""From pairs to clusters and verdicts: which documents are kept, exact or near duplicates.

The lowest number of a cluster is kept, so the verdict does not depend on parts or workers. Labels
of all documents are in a file (4 bytes per document) that is mapped into memory; pairs are joined a
few million at a time.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from data_prep.dataset.atomic import save_array
from data_prep.dedup.candidates import COPIES, LABELS, PairsPart
from data_prep.dedup.clusters import Labels, duplicates, join, number_type
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.signatures import FileRun
from data_prep.engine.stage import Part, PartOutput, Record, Stage, StageResult
from data_prep.text.batch import I64

CODES = "verdicts.codes.npy"
"""File of the verdict on each document."""
KEPT_FOR = "verdicts.kept_for.npy"
"""File of the duplicates, ascending, each with the document that is kept for it."""
KEEP, EXACT, NEAR = 0, 1, 2
"""Verdicts on a document: kept, exact or near duplicate of an earlier one."""
_EXAMPLE_PAIRS = 30


@dataclass(frozen=True, kw_only=True)
class ClustersStage(Stage[Part]):
    """Joins the first pairs to clusters, their connected components."""

    name = "clusters"
    version = 2
    output = "a number and a bit per document"

    exact_pairs: Sequence[Path]
    """Files of pairs of exact duplicates."""
    pairs: Sequence[Path]
    """Files of all pairs."""
    num_documents: int
    limits: DedupLimits

    def run_part(self, folder: Path, part: Part) -> PartOutput:
        """Writes clusters.labels.npy [documents]: the first document of each one's cluster;
        clusters.copies.npy [documents / 8]: a bit for each one that has an equal earlier one."""
        copies = np.zeros(-(-self.num_documents // 8), dtype=np.uint8)
        for pairs in _pairs_in(self.exact_pairs, self.limits.pairs):
            np.bitwise_or.at(copies, pairs[1] >> 3, 128 >> (pairs[1] & 7).astype(np.uint8))
        save_array(folder / COPIES, copies)
        with _labels_in(folder, self.num_documents, self.limits.labels) as labels:
            for pairs in _pairs_in(self.pairs, self.limits.pairs):
                join(labels, pairs)
            # Makes every label a root, too.
            joined = sum(len(found) for found, _ in duplicates(labels, self.limits.labels))
            save_array(folder / LABELS, labels)
        return PartOutput({"joined": joined}, [LABELS, COPIES])


def clusters_stage(
    signed: StageResult[FileRun], first_pairs: StageResult[PairsPart], limits: DedupLimits
) -> ClustersStage:
    """A single part."""
    return ClustersStage(
        parts=[Part(name="clusters")],
        inputs={"first_pairs": first_pairs.content_fingerprint},
        exact_pairs=_exact_files(first_pairs),
        pairs=first_pairs.files(".pairs.npy"),
        num_documents=signed.total("documents"),
        limits=limits,
    )


@dataclass(frozen=True, kw_only=True)
class VerdictsStage(Stage[Part]):
    """Joins all pairs; of each cluster the document with the lowest number is kept."""

    name = "verdicts"
    version = 3
    output = "a byte per document, two numbers per duplicate"
    source_settings = frozenset({"sources"})

    sources: Sequence[str]
    exact_pairs: Sequence[Path]
    """Files of pairs of exact duplicates."""
    pairs: Sequence[Path]
    """Files of the pairs that are not joined in `labels` yet."""
    labels: Path
    """File of the clusters of the first pairs."""
    signatures: Path
    """Folder of the signatures stage."""
    runs: Sequence[FileRun]
    """Its parts."""
    limits: DedupLimits

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"sources": list(self.sources)}

    def run_part(self, folder: Path, part: Part) -> PartOutput:
        """Writes verdicts.codes.npy [documents]: KEEP, EXACT or NEAR; verdicts.kept_for.npy
        [2, duplicates]: their numbers and those of the kept documents; statistics in the record."""
        counts = np.array([run.num_documents for run in self.runs], dtype=np.int64)
        num_documents = int(counts.sum())
        codes = np.zeros(num_documents, dtype=np.uint8)
        for pairs in _pairs_in(self.exact_pairs, self.limits.pairs):
            codes[pairs[1]] = EXACT
        known = np.load(self.labels, mmap_mode="r")
        with _labels_in(folder, num_documents, self.limits.labels, known) as labels:
            for pairs in _pairs_in(self.pairs, self.limits.pairs):
                join(labels, pairs)
            for found, _ in duplicates(labels, self.limits.labels):
                codes[found[codes[found] == KEEP]] = NEAR
            save_array(folder / CODES, codes)
            _save_kept_for(folder / KEPT_FOR, labels, int((codes != KEEP).sum()), self.limits)
            of_run = [self.sources.index(run.source) for run in self.runs]
            documents_of = np.bincount(of_run, counts, len(self.sources)).astype(np.int64)
            record = {
                "sources": self._counts_by_source(codes),
                "files": self._hashes_by_file(codes),
                **_statistics(labels, codes, np.cumsum(documents_of), self.limits.labels),
            }
        return PartOutput(record, [CODES, KEPT_FOR])

    def _hashes_by_file(self, codes: npt.NDArray[np.uint8]) -> dict[str, str]:
        """A hash of the verdicts on each file's documents, which later stages depend on."""
        files = [file for run in self.runs for file in run.files]
        return {
            file.name: xxhash.xxh3_128_hexdigest(
                codes[file.first : file.first + file.num_documents].tobytes()
            )
            for file in files
        }

    def _counts_by_source(self, codes: npt.NDArray[np.uint8]) -> dict[str, dict[str, int]]:
        """Documents and bytes of each source, by verdict."""
        words = ("kept", "exact", "near")
        keys = [f"{word}_{unit}" for word in words for unit in ("documents", "bytes")]
        result = {source: dict.fromkeys(keys, 0) for source in self.sources}
        first = 0
        for run in self.runs:
            lengths = np.load(self.signatures / f"{run.name}.bytes.npy")
            here = codes[first : first + run.num_documents]
            counts = result[run.source]
            for code, word in zip((KEEP, EXACT, NEAR), words, strict=True):
                counts[f"{word}_documents"] += int((here == code).sum())
                counts[f"{word}_bytes"] += int(lengths[here == code].sum())
            first += run.num_documents
        return result


def verdicts_stage(
    signed: StageResult[FileRun],
    first_pairs: StageResult[PairsPart],
    clustered: StageResult[Part],
    pairs: StageResult[PairsPart],
    sources: Sequence[str],
    limits: DedupLimits,
) -> VerdictsStage:
    """A single part."""
    return VerdictsStage(
        parts=[Part(name="verdicts")],
        inputs={"pairs": pairs.content_fingerprint},
        sources=sources,
        exact_pairs=_exact_files(first_pairs),
        pairs=pairs.files(".pairs.npy"),
        labels=clustered.folder / LABELS,
        signatures=signed.folder,
        runs=signed.parts,
        limits=limits,
    )


def _exact_files(first_pairs: StageResult[PairsPart]) -> list[Path]:
    """The files of pairs of exact duplicates."""
    files = zip(first_pairs.parts, first_pairs.files(".pairs.npy"), strict=True)
    return [path for part, path in files if part.band is None]


def _save_kept_for(path: Path, labels: Labels, num_duplicates: int, limits: DedupLimits) -> None:
    """Writes the duplicates with the documents kept for them, a few at a time."""
    narrow = np.dtype(number_type(len(labels)))
    with tempfile.TemporaryFile(dir=path.parent) as file:
        file.truncate(max(2 * num_duplicates, 1) * narrow.itemsize)
        mapped = np.memmap(file, narrow, mode="r+")
        pairs = np.asarray(mapped)[: 2 * num_duplicates].reshape(2, num_duplicates)
        at = 0
        for found, kept in duplicates(labels, limits.labels):
            pairs[:, at : at + len(found)] = found, kept
            at += len(found)
        assert at == num_duplicates
        save_array(path, pairs)


def _pairs_in(files: Sequence[Path], at_once: int) -> Iterator[I64]:
    """The pairs of all files, [2, P], up to `at_once` at a time."""
    for file in files:
        pairs = np.load(file, mmap_mode="r")
        for at in range(0, pairs.shape[1], at_once):
            yield pairs[:, at : at + at_once].astype(np.int64)


@contextmanager
def _labels_in(
    folder: Path, length: int, at_once: int, known: Labels | None = None
) -> Iterator[Labels]:
    """A copy of `known` (0, 1, 2, ... if None) in a file of `folder` that is removed afterwards."""
    narrow = np.dtype(number_type(length))
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(max(length, 1) * narrow.itemsize)
        labels = np.asarray(np.memmap(file, narrow, mode="r+"))[:length]
        for at in range(0, length, at_once):
            end = min(at + at_once, length)
            labels[at:end] = np.arange(at, end) if known is None else known[at:end]
        yield labels


def _statistics(
    labels: Labels, codes: npt.NDArray[np.uint8], end_of_source: I64, at_once: int
) -> Record:
    """Cluster sizes, for which source's documents those of each source are dropped, examples.

    `end_of_source` [sources] is the exclusive end of each source's document numbers.
    """
    num_sources = len(end_of_source)
    matrix = np.zeros(num_sources * num_sources, dtype=np.int64)
    members = np.zeros(len(labels), dtype=np.uint32)
    num_near = int((codes == NEAR).sum())
    chosen = np.linspace(0, num_near - 1, min(num_near, _EXAMPLE_PAIRS)).astype(int)
    examples: list[list[int]] = []
    seen = 0
    for dropped, kept in duplicates(labels, at_once):
        of_kept = np.searchsorted(end_of_source, kept, side="right")
        of_dropped = np.searchsorted(end_of_source, dropped, side="right")
        matrix += np.bincount(of_kept * num_sources + of_dropped, minlength=len(matrix))
        np.add.at(members, kept, 1)
        near = np.flatnonzero(codes[dropped] == NEAR)
        here = near[chosen[(chosen >= seen) & (chosen < seen + len(near))] - seen]
        examples += np.stack([kept[here], dropped[here]], axis=1).tolist()
        seen += len(near)
    size, count = np.unique(members[members > 0], return_counts=True)
    return {
        "cluster_sizes": {str(s + 1): int(c) for s, c in zip(size.tolist(), count, strict=True)},
        "stays_by_goes": matrix.reshape(num_sources, num_sources).tolist(),
        "near_examples": examples,
    }
