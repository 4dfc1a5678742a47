"""Verdicts: which documents are kept, exact or near duplicates.

The lowest number of a cluster is kept, so the verdict does not depend on parts or workers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from data_prep.dataset.atomic import save_array
from data_prep.dedup.array_files import read_part
from data_prep.dedup.candidates import COPIES
from data_prep.dedup.cluster_stages import ALL_LABELS
from data_prep.dedup.clusters import number_type
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.signatures import FileRun
from data_prep.dedup.verdict_counts import EXACT, KEEP, NEAR, Codes, source_counts
from data_prep.engine.stage import Part, PartOutput, Reads, Record, Stage, StageResult
from data_prep.text.batch import I64

CODES_SUFFIX = ".codes.npy"
"""Of a file of the verdict on each document of a part."""
KEPT_FOR_SUFFIX = ".kept_for.npy"
"""Of a file of the duplicates of a part, ascending, each with the document that is kept for it."""
_EXAMPLE_PAIRS = 30


@dataclass(frozen=True, kw_only=True)
class VerdictsStage(Stage[FileRun]):
    """Judges each document by its cluster: kept, exact or near duplicate."""

    name = "verdicts"
    version = 4
    output = "a byte per document, two numbers per duplicate"
    source_settings = frozenset({"sources"})

    sources: Sequence[str]
    end_of_source: Sequence[int]
    """The end of each source's document numbers."""
    labels: Path
    """File of the clusters of all pairs."""
    copies: Path
    """File of a bit for each document that has an equal earlier one."""
    signatures: Path
    """Folder of the signatures stage."""
    limits: DedupLimits

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"sources": list(self.sources)}

    def reads_of(self, part: FileRun) -> Reads:
        # Labels and bits of copies are opened for every `limits.labels` documents.
        pieces = part.num_documents // self.limits.labels + 1
        return Reads(1 + 2 * pieces, 9 * part.num_documents)

    def run_part(self, folder: Path, part: FileRun) -> PartOutput:
        """Writes PART.codes.npy [D]: KEEP, EXACT or NEAR; PART.kept_for.npy [2, duplicates]: their
        numbers and those of the kept documents.

        The record has documents and bytes by verdict; ``stays`` [sources], of whose documents these
        are duplicates; ``files``, a hash of the verdicts on each file's documents, which later
        stages depend on."""
        first = part.files[0].first
        codes = np.empty(part.num_documents, dtype=np.uint8)
        number_dtype = number_type(self.end_of_source[-1])
        pairs = [np.empty((2, 0), dtype=number_dtype)]
        for at in range(0, part.num_documents, self.limits.labels):
            end = min(at + self.limits.labels, part.num_documents)
            codes[at:end], found = self._verdicts(first + at, first + end)
            pairs.append(found.astype(number_dtype))
        kept_for = np.concatenate(pairs, axis=1)
        names = [f"{part.name}{suffix}" for suffix in (CODES_SUFFIX, KEPT_FOR_SUFFIX)]
        for name, array in zip(names, (codes, kept_for), strict=True):
            save_array(folder / name, array)
        stays = np.searchsorted(self.end_of_source, kept_for[1], side="right")
        record: Record = {
            **source_counts(codes, np.load(self.signatures / f"{part.name}.bytes.npy")),
            "stays": np.bincount(stays, minlength=len(self.sources)).tolist(),
            "files": _hashes(part, codes),
        }
        return PartOutput(record, names)

    def _verdicts(self, first: int, end: int) -> tuple[Codes, I64]:
        """The verdicts on the documents from `first` to `end`, and (duplicate, kept) [2, n]."""
        numbers = np.arange(first, end)
        labels: npt.NDArray[Any] = read_part(self.labels, first, end)
        bits = np.unpackbits(read_part(self.copies, first // 8, -(-end // 8)))
        is_copy = bits[first % 8 :][: len(numbers)].astype(bool)
        found = labels != numbers
        codes = np.where(found, np.where(is_copy, EXACT, NEAR), KEEP).astype(np.uint8)
        return codes, np.stack([numbers[found], labels[found].astype(np.int64)])


def verdicts_stage(
    signed: StageResult[FileRun],
    clustered: StageResult[Part],
    all_clustered: StageResult[Part],
    sources: Sequence[str],
    limits: DedupLimits,
) -> VerdictsStage:
    """A part for each part of the signatures."""
    documents_of = dict.fromkeys(sources, 0)
    for run in signed.parts:
        documents_of[run.source] += run.num_documents
    return VerdictsStage(
        parts=signed.parts,
        inputs={"clusters": all_clustered.content_fingerprint},
        sources=sources,
        end_of_source=list(accumulate(documents_of.values())),
        labels=all_clustered.folder / ALL_LABELS,
        copies=clustered.folder / COPIES,
        signatures=signed.folder,
        limits=limits,
    )


def near_examples(verdicts: StageResult[FileRun]) -> list[list[int]]:
    """Near duplicates at equal distances, (kept, duplicate), from the files of the verdicts."""
    num_near = verdicts.total("near_documents")
    chosen = np.linspace(0, num_near - 1, min(num_near, _EXAMPLE_PAIRS)).astype(int)
    pairs: list[list[int]] = []
    before = 0
    for run, record in verdicts.with_records():
        here = chosen[(chosen >= before) & (chosen < before + record["near_documents"])] - before
        if len(here):
            codes: Codes = np.load(verdicts.folder / f"{run.name}{CODES_SUFFIX}")
            kept_for = np.load(verdicts.folder / f"{run.name}{KEPT_FOR_SUFFIX}", mmap_mode="r")
            places = np.flatnonzero(codes[codes != KEEP] == NEAR)[here]
            dropped, kept = kept_for[:, places].astype(np.int64)
            pairs += np.stack([kept, dropped], axis=1).tolist()
        before += record["near_documents"]
    return pairs


def _hashes(run: FileRun, codes: Codes) -> dict[str, str]:
    """A hash of the verdicts on the documents of each file."""
    hashes, at = {}, 0
    for file in run.files:
        of_file = codes[at : at + file.num_documents]
        hashes[file.name] = xxhash.xxh3_128_hexdigest(of_file.tobytes())
        at += file.num_documents
    return hashes
