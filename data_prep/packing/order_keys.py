"""The stage that hashes the field by which documents are packed together (`pack.order_by`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import xxhash

from data_prep.dataset.atomic import save_array
from data_prep.dataset.manifest import SPLITS
from data_prep.dedup.selection import Selection
from data_prep.documents.files import DocumentFile, read_documents
from data_prep.engine.stage import PartOutput, Stage

U64 = npt.NDArray[np.uint64]
NO_KEY = np.uint64(2**64 - 1)
"""The hash of a document without the field."""
BUCKETS = 1024
"""Ranges of hashes that are counted; the documents without a key are in one more, the last."""
_BUCKET_BITS = np.uint64(64 - 10)


@dataclass(frozen=True, kw_only=True)
class OrderKeysStage(Stage[DocumentFile]):
    """Hashes the field `pack.order_by.field` of the kept documents."""

    name = "order_keys"
    version = 2
    output = "arrays"

    selection: Selection
    field: str
    heldout_share: float

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"field": self.field, "heldout_share": self.heldout_share}

    def inputs_for(self, part: DocumentFile) -> Mapping[str, str]:
        return self.selection.inputs_for(part)

    def run_part(self, folder: Path, part: DocumentFile) -> PartOutput:
        """Writes, for each split, PART.SPLIT.keys.npy [documents] in the order of the encode
        stage."""
        keep = self.selection.kept(part)
        heldout = self.selection.heldout(part, self.heldout_share)
        found = [np.empty(0, np.uint64)]
        found += [
            key_hashes(documents.metadata, len(documents.texts), self.field)
            for documents in read_documents(self.selection.path(part))
        ]
        keys = np.concatenate(found)
        names = []
        without = 0
        for split, chosen in zip(SPLITS, (keep & ~heldout, keep & heldout), strict=True):
            mine = keys[chosen]
            without += int((mine == NO_KEY).sum())
            names.append(f"{part.name}.{split}.keys.npy")
            save_array(folder / names[-1], mine)
        return PartOutput({"documents": int(keep.sum()), "without_key": without}, names)


def order_keys_stage(
    selection: Selection, inputs: Mapping[str, str], field: str, heldout_share: float
) -> OrderKeysStage:
    """A part for each file of documents; `inputs` are the stages that decide which there are."""
    return OrderKeysStage(
        parts=selection.files,
        inputs=dict(inputs),
        selection=selection,
        field=field,
        heldout_share=heldout_share,
    )


def key_hashes(metadata: Sequence[bytes] | None, count: int, field: str) -> U64:
    """[D] a hash of the value of `field` in each document's metadata; NO_KEY where it is missing,
    null or empty. Values are equal if they are equal as JSON: 1 and "1" are not."""
    hashes = np.full(count, NO_KEY)
    for number, content in enumerate(metadata or ()):
        value = orjson.loads(content).get(field)
        if value not in (None, "", [], {}):
            text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
            hashes[number] = min(xxhash.xxh3_64_intdigest(text), int(NO_KEY) - 1)
    return hashes


def buckets_of(keys: U64) -> npt.NDArray[np.int64]:
    """[D] the bucket of each key."""
    return np.where(keys == NO_KEY, BUCKETS, (keys >> _BUCKET_BITS).astype(np.int64))
