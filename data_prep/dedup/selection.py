"""Which documents a run keeps, holds out or samples: verdicts, and choices by hash."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.dedup.verdicts import KEEP
from data_prep.documents.files import read_texts
from data_prep.engine.stages import Part, StageResult
from data_prep.text.batch import U64, mixed

Flags = npt.NDArray[np.bool_]
HELDOUT, SAMPLE, CHECK = 0x51ED270B, 0x2545F491, 0x7FEB352D
"""Purposes of `chosen`."""


def chosen(hashes: U64, share: float, purpose: int) -> Flags:
    """Whether each document belongs to a random share; independent choices for other purposes.

    `hashes` are [2, D]; equal documents are chosen alike.
    """
    if share >= 1:
        return np.ones(hashes.shape[1], dtype=bool)
    keyed = mixed(hashes[0] ^ np.uint64(purpose))
    return keyed < np.uint64(int(share * 2.0**64))


class Place(NamedTuple):
    """Where what is known of a part's documents stands."""

    first: int
    """Number of the first document, among all."""
    documents: int
    hashes: str
    """File of the hashes."""
    first_hash: int
    """Of the first document, in that file."""


@dataclass(frozen=True)
class Selection:
    """The documents of a run after deduplication, part by part."""

    parts: Sequence[Part]
    documents: str
    """Folder of the documents' files."""
    verdicts: str
    """File of the verdicts."""
    places: dict[str, Place]
    """Of each part's documents."""
    kept_bytes: dict[str, int]
    """Bytes of kept documents by source."""
    fingerprint: str
    """Content fingerprint of the verdicts."""
    overlap: str | None = field(default=None)
    """Folder of the documents that overlap evaluation texts, once they are known."""

    def hashes(self, name: str) -> U64:
        """The hashes of a part's documents: [2, D]."""
        place = self.places[name]
        hashes: U64 = np.load(place.hashes, mmap_mode="r")
        return np.array(hashes[:, place.first_hash : place.first_hash + place.documents])

    def kept(self, name: str) -> Flags:
        """Whether each document of a part is kept: [D]."""
        codes = np.load(self.verdicts, mmap_mode="r")
        place = self.places[name]
        result: Flags = codes[place.first : place.first + place.documents] == KEEP
        if self.overlap is not None:
            result &= ~np.load(Path(self.overlap) / f"{name}.overlap.npy")
        return result

    def heldout(self, name: str, share: float) -> Flags:
        """Whether each document of a part belongs to the held-out share: [D]."""
        return chosen(self.hashes(name), share, HELDOUT)

    def chosen_texts(self, name: str, flags: Flags) -> Iterator[list[bytes]]:
        """The texts of a part's chosen documents, batch by batch."""
        for at, texts in read_texts(Path(self.documents) / f"{name}.parquet", flags):
            yield [texts[k] for k in np.flatnonzero(flags[at : at + len(texts)]).tolist()]


def select(documents: StageResult, signed: StageResult, verdicts: StageResult) -> Selection:
    """The selection that the verdicts make."""
    places: dict[str, Place] = {}
    first = 0
    for part in signed.parts:
        first_hash = 0
        for name, num_documents in part.arguments["files"]:
            hashes = str(signed.folder / f"{part.name}.hashes.npy")
            places[name] = Place(first, num_documents, hashes, first_hash)
            first += num_documents
            first_hash += num_documents
    sources = verdicts.records[0]["sources"]
    return Selection(
        [
            Part(part.name, {}, record["bytes"])
            for part, record in zip(documents.parts, documents.records, strict=True)
        ],
        str(documents.folder),
        str(verdicts.folder / "verdicts.codes.npy"),
        places,
        {name: entry["kept_bytes"] for name, entry in sources.items()},
        verdicts.content_fingerprint,
    )
