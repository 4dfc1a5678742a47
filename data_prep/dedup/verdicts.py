"""From pairs to clusters and verdicts: which documents are kept, exact or near duplicates.

The lowest number of a cluster is kept, so the verdict does not depend on parts or workers. Both
stages go through the documents range by range, see `cluster_ranges`: their memory does not depend
on how many documents there are.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.dataset.atomic import open_atomic, start_array
from data_prep.dedup.array_files import read_part
from data_prep.dedup.buckets import Buckets
from data_prep.dedup.candidates import COPIES, LABELS, PairsPart
from data_prep.dedup.cluster_ranges import ClusterRanges
from data_prep.dedup.clusters import number_type
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.signatures import FileRun
from data_prep.dedup.verdict_counts import EXACT, KEEP, NEAR, DuplicateCounts, VerdictCounts
from data_prep.engine.stage import Part, PartOutput, Reads, Stage, StageResult
from data_prep.text.batch import I64

CODES = "verdicts.codes.npy"
"""File of the verdict on each document."""
KEPT_FOR = "verdicts.kept_for.npy"
"""File of the duplicates, ascending, each with the document that is kept for it."""


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

    def reads_of(self, part: Part) -> Reads:
        return Reads(len(self.exact_pairs) + len(self.pairs), part.num_bytes)

    def run_part(self, folder: Path, part: Part) -> PartOutput:
        """Writes clusters.labels.npy [documents]: the first document of each one's cluster;
        clusters.copies.npy [documents / 8]: a bit for each one that has an equal earlier one."""
        limits, size = self.limits, self.limits.cluster_documents
        narrow = number_type(self.num_documents)
        with (
            ClusterRanges(folder, self.num_documents, size, limits.labels) as clusters,
            Buckets(folder, len(clusters.ranges), 1, narrow) as copies,
            open_atomic(folder / LABELS) as labels_file,
            open_atomic(folder / COPIES) as copies_file,
        ):
            for pairs in _pairs_in(self.pairs, limits.pairs):
                clusters.add(pairs)
            for pairs in _pairs_in(self.exact_pairs, limits.pairs):
                copies.add(pairs[1] // size, pairs[1:])
            joined = clusters.contract()
            start_array(labels_file, (self.num_documents,), narrow)
            start_array(copies_file, (-(-self.num_documents // 8),), np.uint8)
            for number, (first, labels) in enumerate(clusters.labels()):
                labels_file.write(labels.data)
                is_copy = np.zeros(len(labels), dtype=bool)
                for (numbers,) in copies.read(number):
                    is_copy[numbers.astype(np.int64) - first] = True
                copies_file.write(np.packbits(is_copy).data)
        return PartOutput({"joined": joined}, [LABELS, COPIES])


def clusters_stage(
    signed: StageResult[FileRun], first_pairs: StageResult[PairsPart], limits: DedupLimits
) -> ClustersStage:
    """A single part."""
    return ClustersStage(
        parts=[Part(name="clusters", num_bytes=8 * first_pairs.total("pairs"))],
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
    pairs: Sequence[Path]
    """Files of the pairs that are not joined in `labels` yet."""
    labels: Path
    """File of the clusters of the first pairs."""
    copies: Path
    """File of a bit for each document that has an equal earlier one."""
    signatures: Path
    """Folder of the signatures stage."""
    runs: Sequence[FileRun]
    """Its parts."""
    limits: DedupLimits

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"sources": list(self.sources)}

    def reads_of(self, part: Part) -> Reads:
        # Labels and bits of copies are opened for every `limits.labels` documents, too.
        num_documents = sum(run.num_documents for run in self.runs)
        pieces = num_documents // self.limits.labels + 1
        return Reads(len(self.pairs) + 2 * len(self.runs) + 3 * pieces, part.num_bytes)

    def run_part(self, folder: Path, part: Part) -> PartOutput:
        """Writes verdicts.codes.npy [documents]: KEEP, EXACT or NEAR; verdicts.kept_for.npy
        [2, duplicates]: their numbers and those of the kept documents; statistics in the record."""
        limits = self.limits
        num_documents = sum(run.num_documents for run in self.runs)
        with ClusterRanges(
            folder, num_documents, limits.cluster_documents, limits.labels
        ) as clusters:
            for pairs in _pairs_in(self.pairs, limits.pairs):
                clusters.add(pairs)
            num_duplicates = clusters.contract(lambda at, end: read_part(self.labels, at, end))
            of_duplicates = self._write(folder, clusters, num_documents, num_duplicates)
        counts = VerdictCounts(self.runs, self.sources, self.signatures)
        near_pairs = of_duplicates.pop("near_pairs")
        record = counts.of(folder / CODES, folder / KEPT_FOR, near_pairs)
        return PartOutput({**record, **of_duplicates}, [CODES, KEPT_FOR])

    def _write(
        self, folder: Path, clusters: ClusterRanges, num_documents: int, num_duplicates: int
    ) -> dict[str, Any]:
        """Writes both files; counts of the duplicates for the record, and ``near_pairs``."""
        narrow = np.dtype(number_type(num_documents))
        documents_of = dict.fromkeys(self.sources, 0)
        for run in self.runs:
            documents_of[run.source] += run.num_documents
        end_of_source = np.cumsum(list(documents_of.values()), dtype=np.int64)
        done = 0
        with (
            DuplicateCounts(folder, clusters.ranges, end_of_source, narrow) as counts,
            open_atomic(folder / CODES) as codes_file,
            open_atomic(folder / KEPT_FOR) as kept_for,
        ):
            start_array(codes_file, (num_documents,), np.uint8)
            start = start_array(kept_for, (2, num_duplicates), narrow)
            for first, labels in clusters.labels():
                for at in range(0, len(labels), self.limits.labels):
                    some = labels[at : at + self.limits.labels]
                    numbers = np.arange(first + at, first + at + len(some))
                    codes, found = self._codes(numbers, some)
                    codes_file.write(codes.data)
                    rows = np.stack([numbers[found], some[found]])
                    for row in range(2):
                        kept_for.seek(start + (row * num_duplicates + done) * narrow.itemsize)
                        kept_for.write(rows[row].astype(narrow).data)
                    counts.add(rows, codes[found])
                    done += rows.shape[1]
            assert done == num_duplicates
            return counts.record()

    def _codes(
        self, numbers: I64, labels: npt.NDArray[np.integer[Any]]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """(verdicts, whether they are duplicates) of consecutive documents, the first of which is a
        multiple of 8."""
        first, end = int(numbers[0]), int(numbers[-1]) + 1
        bits = read_part(self.copies, first // 8, -(-end // 8))
        is_copy = np.unpackbits(bits, count=len(numbers)).astype(bool)
        found = labels != numbers
        codes = np.where(found, np.where(is_copy, EXACT, NEAR), KEEP).astype(np.uint8)
        return codes, found


def verdicts_stage(
    signed: StageResult[FileRun],
    clustered: StageResult[Part],
    pairs: StageResult[PairsPart],
    sources: Sequence[str],
    limits: DedupLimits,
) -> VerdictsStage:
    """A single part."""
    return VerdictsStage(
        parts=[
            Part(
                name="verdicts",
                num_bytes=8 * (signed.total("documents") + pairs.total("pairs")),
            )
        ],
        inputs={"pairs": pairs.content_fingerprint},
        sources=sources,
        pairs=pairs.files(".pairs.npy"),
        labels=clustered.folder / LABELS,
        copies=clustered.folder / COPIES,
        signatures=signed.folder,
        runs=signed.parts,
        limits=limits,
    )


def _exact_files(first_pairs: StageResult[PairsPart]) -> list[Path]:
    """The files of pairs of exact duplicates."""
    files = zip(first_pairs.parts, first_pairs.files(".pairs.npy"), strict=True)
    return [path for part, path in files if part.band is None]


def _pairs_in(files: Sequence[Path], at_once: int) -> Iterator[I64]:
    """The pairs of all files, [2, P], up to `at_once` at a time."""
    for file in files:
        pairs = np.load(file, mmap_mode="r")
        for at in range(0, pairs.shape[1], at_once):
            yield pairs[:, at : at + at_once].astype(np.int64)
