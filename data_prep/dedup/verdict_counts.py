"""Counts of the verdicts for the record of their stage, in memory that is known before."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import xxhash

from data_prep.dedup.array_files import read_part
from data_prep.dedup.buckets import Buckets
from data_prep.dedup.signatures import FileRun
from data_prep.engine.stage import Record
from data_prep.text.batch import I64

KEEP, EXACT, NEAR = 0, 1, 2
"""Verdicts on a document: kept, exact or near duplicate of an earlier one."""
_EXAMPLE_PAIRS = 30
Codes = npt.NDArray[np.uint8]


class DuplicateCounts:
    """Sizes of clusters, and of which source's documents those of each source are duplicates."""

    def __init__(
        self,
        folder: Path,
        ranges: Sequence[tuple[int, int]],
        end_of_source: I64,
        number_type: npt.DTypeLike,
    ) -> None:
        """`ranges` of documents are counted together, 4 bytes of memory for each; `end_of_source`
        [sources] is the exclusive end of each source's document numbers."""
        self._ranges, self._end_of_source = ranges, end_of_source
        self._kept = Buckets(folder, len(ranges), 1, number_type)
        self._matrix = np.zeros(len(end_of_source) ** 2, dtype=np.int64)
        self._num_near = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._kept.__exit__(*error)

    def add(self, pairs: I64, codes: Codes) -> None:
        """Adds duplicates with the documents kept for them [2, P], and their verdicts [P]."""
        of_dropped, of_kept = (
            np.searchsorted(self._end_of_source, numbers, side="right") for numbers in pairs
        )
        places = of_kept * len(self._end_of_source) + of_dropped
        self._matrix += np.bincount(places, minlength=len(self._matrix))
        starts = [first for first, _ in self._ranges]
        self._kept.add(np.searchsorted(starts, pairs[1], side="right") - 1, pairs[1:])
        self._num_near += int((codes == NEAR).sum())

    def record(self) -> Record:
        """``cluster_sizes``, ``stays_by_goes`` and ``near_pairs``, the number of near duplicates,
        once all are added."""
        num_sources = len(self._end_of_source)
        return {
            "cluster_sizes": self._cluster_sizes(),
            "stays_by_goes": self._matrix.reshape(num_sources, num_sources).tolist(),
            "near_pairs": self._num_near,
        }

    def _cluster_sizes(self) -> dict[str, int]:
        sizes: Counter[int] = Counter()
        for number, (first, end) in enumerate(self._ranges):
            members = np.zeros(end - first, dtype=np.uint32)
            for (kept,) in self._kept.read(number):
                np.add.at(members, kept.astype(np.int64) - first, 1)
            size, count = np.unique(members[members > 0], return_counts=True)
            sizes.update(dict(zip((size + 1).tolist(), count.tolist(), strict=True)))
        return {str(size): sizes[size] for size in sorted(sizes)}


class VerdictCounts:
    """What the record says of the documents of each source and file."""

    def __init__(self, runs: Sequence[FileRun], sources: Sequence[str], signatures: Path) -> None:
        """`signatures` is the folder of the signatures stage, `runs` are its parts."""
        self._runs, self._sources, self._signatures = runs, sources, signatures

    def of(self, codes: Path, kept_for: Path, num_near: int) -> Record:
        """``sources``: documents and bytes by verdict; ``files``: a hash of the verdicts on each
        file's documents, which later stages depend on; ``near_examples``: some near duplicates,
        (kept, duplicate), of `num_near`. A run of files is read at a time."""
        words = ("kept", "exact", "near")
        keys = [f"{word}_{unit}" for word in words for unit in ("documents", "bytes")]
        by_source = {source: dict.fromkeys(keys, 0) for source in self._sources}
        files: dict[str, str] = {}
        examples = _Examples(kept_for, num_near)
        first = 0
        for run in self._runs:
            here: Codes = read_part(codes, first, first + run.num_documents)
            lengths = np.load(self._signatures / f"{run.name}.bytes.npy")
            for code, word in zip((KEEP, EXACT, NEAR), words, strict=True):
                by_source[run.source][f"{word}_documents"] += int((here == code).sum())
                by_source[run.source][f"{word}_bytes"] += int(lengths[here == code].sum())
            at = 0
            for file in run.files:
                of_file = here[at : at + file.num_documents]
                files[file.name] = xxhash.xxh3_128_hexdigest(of_file.tobytes())
                at += file.num_documents
            examples.add(here)
            first += run.num_documents
        return {"sources": by_source, "files": files, "near_examples": examples.pairs}


class _Examples:
    """Near duplicates at equal distances, each with the document that is kept for it."""

    def __init__(self, kept_for: Path, num_near: int) -> None:
        self._kept_for: Any = np.load(kept_for, mmap_mode="r")
        self._chosen = np.linspace(0, num_near - 1, min(num_near, _EXAMPLE_PAIRS)).astype(int)
        self._num_near = self._num_duplicates = 0
        self.pairs: list[list[int]] = []

    def add(self, codes: Codes) -> None:
        """Takes those of the next documents, of which these are the verdicts."""
        duplicates = codes[codes != KEEP]
        near = np.flatnonzero(duplicates == NEAR)
        chosen = self._chosen[self._chosen >= self._num_near] - self._num_near
        places = near[chosen[chosen < len(near)]] + self._num_duplicates
        dropped, kept = self._kept_for[:, places].astype(np.int64)
        self.pairs += np.stack([kept, dropped], axis=1).tolist()
        self._num_near += len(near)
        self._num_duplicates += len(duplicates)
