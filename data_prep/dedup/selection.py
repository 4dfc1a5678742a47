"""Which documents a run keeps, holds out or samples: verdicts, and choices by hash."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.dedup.signatures import FileRun
from data_prep.dedup.verdict_counts import KEEP, Codes
from data_prep.dedup.verdicts import CODES_SUFFIX
from data_prep.documents.files import DocumentFile, Documents, read_texts
from data_prep.engine.stage import StageResult
from data_prep.kernels.hashing import mixed
from data_prep.text.batch import U64

Flags = npt.NDArray[np.bool_]
HELDOUT, SAMPLE, CHECK = 0x51ED270B, 0x2545F491, 0x7FEB352D
"""Purposes of `chosen`."""


def chosen(hashes: U64, share: float, purpose: int) -> Flags:
    """Whether each document belongs to a random share: [D]. Choices for two purposes are
    independent.

    `hashes` are [2, D]; equal documents are chosen alike.
    """
    if share >= 1:
        return np.ones(hashes.shape[1], dtype=bool)
    keyed = mixed(hashes[0] ^ np.uint64(purpose))
    return keyed < np.uint64(int(share * 2.0**64))


class PlaceInRun(NamedTuple):
    """Where what was computed of a file's documents is."""

    run: str
    """Name of the part of the signatures."""
    first: int
    """Index of the first document there."""


@dataclass(frozen=True)
class Selection:
    """The documents of a run after deduplication, file by file."""

    files: Sequence[DocumentFile]
    documents: Path
    """Folder of the files."""
    verdicts: Path
    """Folder of the verdicts."""
    signatures: Path
    """Folder of the signatures stage."""
    places: Mapping[str, PlaceInRun]
    """By file name."""
    kept_bytes: Mapping[str, int]
    """Bytes of kept documents, by source."""
    fingerprint: str
    """Content fingerprint of the verdicts."""
    verdict_hashes: Mapping[str, str]
    """A hash of the verdicts on the documents of each file."""
    overlap: Path | None = None
    """Folder of the overlap stage, after decontamination."""
    overlap_hashes: Mapping[str, str] = field(default_factory=dict)
    """A hash of what that stage found in each file."""

    def inputs_for(self, file: DocumentFile) -> dict[str, str]:
        """What decides the texts of a file that are kept, by content."""
        inputs = {"documents": file.content, "verdicts": self.verdict_hashes[file.name]}
        return {**inputs, "overlap": self.overlap_hashes.get(file.name, "")}

    def path(self, file: DocumentFile) -> Path:
        """The Parquet file."""
        return self.documents / f"{file.name}.parquet"

    def hashes(self, file: DocumentFile) -> U64:
        """The hashes of a file's documents: [2, D]."""
        run, first = self.places[file.name]
        hashes: U64 = np.load(self.signatures / f"{run}.hashes.npy", mmap_mode="r")
        return np.array(hashes[:, first : first + file.num_documents])

    def codes(self, file: DocumentFile) -> Codes:
        """The verdict on each document of a file: [D]."""
        run, first = self.places[file.name]
        codes: Codes = np.load(self.verdicts / f"{run}{CODES_SUFFIX}", mmap_mode="r")
        return np.array(codes[first : first + file.num_documents])

    def kept(self, file: DocumentFile) -> Flags:
        """Whether each document of a file is kept: [D]."""
        result: Flags = self.codes(file) == KEEP
        if self.overlap is not None:
            result &= ~np.load(self.overlap / f"{file.name}.overlap.npy")
        return result

    def heldout(self, file: DocumentFile, share: float) -> Flags:
        """Whether each document of a file belongs to the held-out share: [D]."""
        return chosen(self.hashes(file), share, HELDOUT)

    def chosen_texts(self, file: DocumentFile, flags: Flags) -> Iterator[list[bytes]]:
        """The texts of a file's chosen documents, batch by batch."""
        for at, texts in read_texts(self.path(file), flags):
            yield [texts[k] for k in np.flatnonzero(flags[at : at + len(texts)]).tolist()]


def select(
    documents: Documents, verdicts: StageResult[FileRun], signatures: Path, sources: Iterable[str]
) -> Selection:
    """The selection that follows from the verdicts; `signatures` is the folder of that stage."""
    places: dict[str, PlaceInRun] = {}
    hashes: dict[str, str] = {}
    kept_bytes = dict.fromkeys(sources, 0)
    for run, record in verdicts.with_records():
        first = 0
        for file in run.files:
            places[file.name] = PlaceInRun(run.name, first)
            first += file.num_documents
        hashes.update(record["files"])
        kept_bytes[run.source] += record["kept_bytes"]
    return Selection(
        files=documents.files,
        documents=documents.folder,
        verdicts=verdicts.folder,
        signatures=signatures,
        places=places,
        kept_bytes=kept_bytes,
        fingerprint=verdicts.content_fingerprint,
        verdict_hashes=hashes,
    )
