"""From pairs to clusters, their connected components, named by their lowest documents.

One worker joins all pairs, as those of evenly spread duplicates connect any range of documents with
any other. Both stages go through the documents range by range, see `cluster_ranges`: their memory
does not depend on how many documents there are.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.dataset.atomic import open_atomic, start_array
from data_prep.dedup.array_files import read_part
from data_prep.dedup.buckets import Buckets
from data_prep.dedup.candidates import COPIES, LABELS, PairsPart
from data_prep.dedup.cluster_ranges import ClusterRanges
from data_prep.dedup.clusters import number_type
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.signatures import FileRun
from data_prep.engine.stage import Part, PartOutput, Reads, Stage, StageResult
from data_prep.text.batch import I64

ALL_LABELS = "all_clusters.labels.npy"
"""File of the clusters of all pairs: the label of each document."""


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
class AllClustersStage(Stage[Part]):
    """Joins all pairs to clusters; of each the document with the lowest number is kept."""

    name = "all_clusters"
    version = 1
    output = "a number per document"

    pairs: Sequence[Path]
    """Files of the pairs that are not joined in `labels` yet."""
    labels: Path
    """File of the clusters of the first pairs."""
    num_documents: int
    limits: DedupLimits

    def reads_of(self, part: Part) -> Reads:
        # Labels are opened for every `limits.labels` documents, twice.
        pieces = self.num_documents // self.limits.labels + 1
        return Reads(len(self.pairs) + 2 * pieces, part.num_bytes)

    def run_part(self, folder: Path, part: Part) -> PartOutput:
        """Writes all_clusters.labels.npy [documents]: the first document of each one's cluster; the
        record has ``duplicates`` and ``cluster_sizes``, the clusters by size."""
        limits, size = self.limits, self.limits.cluster_documents
        narrow = number_type(self.num_documents)
        with (
            ClusterRanges(folder, self.num_documents, size, limits.labels) as clusters,
            Buckets(folder, len(clusters.ranges), 1, narrow) as kept,
            open_atomic(folder / ALL_LABELS) as labels_file,
        ):
            for pairs in _pairs_in(self.pairs, limits.pairs):
                clusters.add(pairs)
            joined = clusters.contract(lambda at, end: read_part(self.labels, at, end))
            start_array(labels_file, (self.num_documents,), narrow)
            for first, labels in clusters.labels():
                labels_file.write(labels.data)
                for at in range(0, len(labels), limits.labels):
                    some = labels[at : at + limits.labels].astype(np.int64)
                    some = some[some != np.arange(first + at, first + at + len(some))]
                    kept.add(some // size, some[None])
            sizes = _cluster_sizes(kept, clusters.ranges)
        return PartOutput({"duplicates": joined, "cluster_sizes": sizes}, [ALL_LABELS])


def all_clusters_stage(
    signed: StageResult[FileRun],
    clustered: StageResult[Part],
    pairs: StageResult[PairsPart],
    limits: DedupLimits,
) -> AllClustersStage:
    """A single part."""
    num_documents = signed.total("documents")
    num_bytes = 8 * (num_documents + pairs.total("pairs"))
    return AllClustersStage(
        parts=[Part(name="all_clusters", num_bytes=num_bytes)],
        inputs={"pairs": pairs.content_fingerprint},
        pairs=pairs.files(".pairs.npy"),
        labels=clustered.folder / LABELS,
        num_documents=num_documents,
        limits=limits,
    )


def _cluster_sizes(kept: Buckets, ranges: Sequence[tuple[int, int]]) -> dict[str, int]:
    """Clusters by size, from the document kept for each duplicate, in buckets of the `ranges`."""
    sizes: Counter[int] = Counter()
    for number, (first, end) in enumerate(ranges):
        members = np.zeros(end - first, dtype=np.uint32)
        for (numbers,) in kept.read(number):
            np.add.at(members, numbers.astype(np.int64) - first, 1)
        size, count = np.unique(members[members > 0], return_counts=True)
        sizes.update(dict(zip((size + 1).tolist(), count.tolist(), strict=True)))
    return {str(size): sizes[size] for size in sorted(sizes)}


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
