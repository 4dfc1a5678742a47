"""From pairs to clusters and verdicts: which documents stay, which go as exact or near duplicates.

The lowest number of a cluster stays, so the verdict does not depend on parts or workers. Labels of
all documents lie in a file (4 bytes a document) that is mapped into memory; pairs are joined a few
million at a time.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.dataset.atomic import save_array
from data_prep.dedup.candidates import LABELS
from data_prep.dedup.clusters import DOCUMENTS_AT_ONCE, Labels, duplicates, join, number_type
from data_prep.dedup.signatures import signed_parts
from data_prep.engine.stages import Part, Record, Stage, StageResult, source_of
from data_prep.text.batch import I64

CLUSTERS, VERDICTS = "clusters", "verdicts"
KEEP, EXACT, NEAR = 0, 1, 2
"""Verdicts on a document."""
_PAIRS_AT_ONCE = 1 << 20
_EXAMPLE_PAIRS = 30


def clusters_stage(signed: StageResult, first_pairs: StageResult) -> Stage:
    """The one part that joins the first pairs to clusters."""
    return Stage(
        CLUSTERS,
        1,
        {},
        {"first_pairs": first_pairs.content_fingerprint},
        [Part("clusters", {})],
        clusters_part,
        {"pairs": _files_of(first_pairs), "documents": signed.total("documents")},
    )


def clusters_part(
    folder: Path, part: Part, settings: Mapping[str, Any]
) -> tuple[Record, Sequence[str]]:
    """Writes clusters.labels.npy [documents]: the first document of each one's cluster."""
    with _labels_in(folder, settings["documents"]) as labels:
        for pairs in _pairs_in(settings["pairs"]):
            join(labels, pairs)
        joined = sum(len(goes) for goes, _ in duplicates(labels))  # and every label is a root
        save_array(folder / LABELS, labels)
    return {"joined": joined}, [LABELS]


def verdicts_stage(
    signed: StageResult,
    first_pairs: StageResult,
    joined: StageResult,
    pairs: StageResult,
    sources: Sequence[str],
) -> Stage:
    """The one part that joins all pairs and says of every document whether it stays."""
    return Stage(
        VERDICTS,
        2,
        {"sources": list(sources)},
        {"pairs": pairs.content_fingerprint},
        [Part("verdicts", {})],
        verdicts_part,
        {
            "exact": [f for f in _files_of(first_pairs) if Path(f).name.startswith("exact-")],
            "labels": str(joined.folder / LABELS),
            "pairs": _files_of(pairs),
            "signatures": str(signed.folder),
            "signed": signed_parts(signed),
        },
    )


def _files_of(pairs: StageResult) -> list[str]:
    return [str(pairs.folder / f"{part.name}.pairs.npy") for part in pairs.parts]


def verdicts_part(
    folder: Path, part: Part, settings: Mapping[str, Any]
) -> tuple[Record, Sequence[str]]:
    """Writes verdicts.codes.npy [documents]: KEEP, EXACT or NEAR; statistics in the record."""
    sources, parts = settings["sources"], settings["signed"]
    counts = np.array([count for _, count in parts], dtype=np.int64)
    num_documents = int(counts.sum())
    codes = np.zeros(num_documents, dtype=np.uint8)
    for pairs in _pairs_in(settings["exact"]):
        codes[pairs[1]] = EXACT
    known = np.load(settings["labels"], mmap_mode="r")
    with _labels_in(folder, num_documents, known) as labels:
        for pairs in _pairs_in(settings["pairs"]):
            join(labels, pairs)
        for goes, _ in duplicates(labels):
            codes[goes[codes[goes] == KEEP]] = NEAR
        save_array(folder / "verdicts.codes.npy", codes)
        of_part = [sources.index(source_of(name)) for name, _ in parts]
        documents_of = np.bincount(of_part, counts, len(sources)).astype(np.int64)
        record = {
            "sources": _counts_by_source(Path(settings["signatures"]), parts, codes, sources),
            **_statistics(labels, codes, np.cumsum(documents_of)),
        }
    return record, ["verdicts.codes.npy"]


def _pairs_in(files: Sequence[str]) -> Iterator[I64]:
    """The pairs of all files, [2, P], a few million at a time."""
    for file in files:
        pairs = np.load(file, mmap_mode="r")
        for at in range(0, pairs.shape[1], _PAIRS_AT_ONCE):
            yield pairs[:, at : at + _PAIRS_AT_ONCE].astype(np.int64)


@contextmanager
def _labels_in(folder: Path, length: int, known: Labels | None = None) -> Iterator[Labels]:
    """A copy of `known` (0, 1, 2, ... up to `length`) in a file that is gone afterwards."""
    narrow = np.dtype(number_type(length))
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(max(length, 1) * narrow.itemsize)
        labels = np.asarray(np.memmap(file, narrow, mode="r+"))[:length]
        for at in range(0, length, DOCUMENTS_AT_ONCE):
            end = min(at + DOCUMENTS_AT_ONCE, length)
            labels[at:end] = np.arange(at, end) if known is None else known[at:end]
        yield labels


def _counts_by_source(
    signatures: Path,
    parts: Sequence[tuple[str, int]],
    codes: npt.NDArray[np.uint8],
    sources: Sequence[str],
) -> dict[str, dict[str, int]]:
    words = ("kept", "exact", "near")
    result = {s: {f"{w}_{u}": 0 for w in words for u in ("documents", "bytes")} for s in sources}
    first = 0
    for name, count in parts:
        lengths = np.load(signatures / f"{name}.bytes.npy")
        here = codes[first : first + count]
        counts = result[source_of(name)]
        for code, word in zip((KEEP, EXACT, NEAR), words, strict=True):
            counts[f"{word}_documents"] += int((here == code).sum())
            counts[f"{word}_bytes"] += int(lengths[here == code].sum())
        first += count
    return result


def _statistics(labels: Labels, codes: npt.NDArray[np.uint8], last_of_source: I64) -> Record:
    """Sizes of the clusters, which source's documents go for which, and pairs to look at."""
    num_sources = len(last_of_source)
    matrix = np.zeros(num_sources * num_sources, dtype=np.int64)
    members = np.zeros(len(labels), dtype=np.uint32)
    num_near = int((codes == NEAR).sum())
    chosen = np.linspace(0, num_near - 1, min(num_near, _EXAMPLE_PAIRS)).astype(int)
    examples: list[list[int]] = []
    seen = 0
    for goes, stays in duplicates(labels):
        cell = [np.searchsorted(last_of_source, numbers, side="right") for numbers in (stays, goes)]
        matrix += np.bincount(cell[0] * num_sources + cell[1], minlength=len(matrix))
        np.add.at(members, stays, 1)
        near = np.flatnonzero(codes[goes] == NEAR)
        here = near[chosen[(chosen >= seen) & (chosen < seen + len(near))] - seen]
        examples += np.stack([stays[here], goes[here]], axis=1).tolist()
        seen += len(near)
    size, count = np.unique(members[members > 0], return_counts=True)
    return {
        "cluster_sizes": {str(s + 1): int(c) for s, c in zip(size.tolist(), count, strict=True)},
        "stays_by_goes": matrix.reshape(num_sources, num_sources).tolist(),
        "near_examples": examples,
    }
