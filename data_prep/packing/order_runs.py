"""Sorted runs of keys: what a part of `order` reads instead of the keys of all documents."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.dataset.atomic import save_array
from data_prep.dataset.manifest import SPLITS
from data_prep.dedup.signatures import FileRun
from data_prep.documents.files import DocumentFile
from data_prep.engine.stage import PartOutput, Reads, Stage, StageResult
from data_prep.packing.id_stream import I64
from data_prep.packing.order_keys import BUCKETS, U64, buckets_of

COLUMNS = 4
"""Rows of a run's array: hashes, numbers in the run, first ids in the run's stream, lengths."""


@dataclass(frozen=True, kw_only=True)
class OrderRunsStage(Stage[FileRun]):
    """Sorts these hashes by runs of files, so that the order of a range reads only its slice."""

    name = "order_runs"
    version = 1
    output = "arrays"

    keys: Path
    """Folder of the stage that hashed the keys."""
    encoded: Path
    """Folder of the encode stage."""
    contents: Mapping[str, tuple[str, str]]
    """Hashes of the outputs of the two, by file."""

    def inputs_for(self, part: FileRun) -> Mapping[str, str]:
        return {f"{file.name}": " ".join(self.contents[file.name]) for file in part.files}

    def reads_of(self, part: FileRun) -> Reads:
        return Reads(2 * len(SPLITS) * part.num_files, 12 * part.num_documents)

    def run_part(self, folder: Path, part: FileRun) -> PartOutput:
        """Writes, for each split, PART.SPLIT.sorted.npy [COLUMNS, D], ascending by hash and number,
        and PART.SPLIT.bounds.npy [BUCKETS + 2], where the hashes of each bucket start in it."""
        names = []
        documents = 0
        for split in SPLITS:
            files = [f"{file.name}.{split}" for file in part.files]
            keys: U64 = np.concatenate([np.load(self.keys / f"{n}.keys.npy") for n in files])
            found = [np.load(self.encoded / f"{name}.lengths.npy") for name in files]
            lengths: I64 = np.concatenate(found).astype(np.int64)
            starts = np.cumsum(lengths + 1) - (lengths + 1)
            ascending = np.argsort(keys, kind="stable")
            columns = (keys, np.arange(len(keys)), starts, lengths)
            rows = np.stack([column[ascending].astype(np.uint64) for column in columns])
            counts = np.bincount(buckets_of(keys), minlength=BUCKETS + 1)
            for what, array in (("sorted", rows), ("bounds", np.append(0, np.cumsum(counts)))):
                names.append(f"{part.name}.{split}.{what}.npy")
                save_array(folder / names[-1], array)
            documents += len(keys)
        return PartOutput({"documents": documents}, names)


def order_runs_stage(
    encoded: StageResult[DocumentFile],
    hashed: StageResult[DocumentFile],
    signed: StageResult[FileRun],
) -> OrderRunsStage:
    """A part for each part of the signatures."""
    lengths, keys = (
        result.contents(lambda file: file.name, f".{what}.")
        for result, what in ((encoded, "lengths"), (hashed, "keys"))
    )
    return OrderRunsStage(
        parts=signed.parts,
        inputs={
            "encode": encoded.content_fingerprint,
            "order_keys": hashed.content_fingerprint,
        },
        keys=hashed.folder,
        encoded=encoded.folder,
        contents={name: (keys[name], lengths[name]) for name in keys},
    )
