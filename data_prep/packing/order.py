"""The stage that orders the documents of a source by a key (`pack.order_by`), and its streams.

Documents with equal keys stand one after another, in the order of the source; the keys stand in the
order of their hashes, so that neighbouring groups have nothing in common. Documents without a key
come last, in the order of the source. A part sorts a range of hashes, which keeps memory constant;
it reads the keys of all documents of the source, 8 bytes each. Where one range of hashes has more
documents than are sorted at once, as with a key that most documents have, each part sorts a range
of the source's documents instead, and the group is divided among these.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from configs.load import fingerprint
from data_prep.dataset.atomic import save_array
from data_prep.dataset.manifest import Split
from data_prep.documents.files import DocumentFile
from data_prep.engine.stage import Part, PartOutput, Stage, StageResult
from data_prep.packing.id_stream import I64, Segment
from data_prep.packing.order_keys import BUCKETS, buckets_of
from data_prep.packing.streams import Streams

ORDER_DOCUMENTS = 5_000_000
"""Documents that are sorted at once: about 100 bytes of memory each."""
PIECE_DOCUMENTS = 50_000
"""Documents of a file."""


@dataclass(frozen=True, kw_only=True)
class OrderPart(Part):
    """The documents with keys in the buckets [first_bucket, end_bucket), and with numbers in
    [first, end), of a source and split."""

    split: Split
    source: str
    first_bucket: int
    end_bucket: int
    first: int
    end: int

    def plan(self) -> dict[str, Any]:
        return {
            "split": self.split,
            "source": self.source,
            "buckets": [self.first_bucket, self.end_bucket],
            "documents": [self.first, self.end],
        }


@dataclass(frozen=True, kw_only=True)
class OrderStage(Stage[OrderPart]):
    """Orders the documents of each source by `pack.order_by.field`."""

    name = "order"
    version = 1
    output = "order"

    streams: Streams
    keys: Path
    """Folder of the stage that hashed the keys."""
    key_contents: Mapping[tuple[Split, str], str]
    """A hash of them, by split and source."""
    at_once: int

    @property
    def settings(self) -> Mapping[str, Any]:
        most = dict(self.streams.max_tokens)
        return {"at_once": self.at_once, **({"max_tokens": most} if most else {})}

    def inputs_for(self, part: OrderPart) -> Mapping[str, str]:
        key = part.split, part.source
        return {"stream": self.streams.contents[key], "keys": self.key_contents.get(key, "")}

    def run_part(self, folder: Path, part: OrderPart) -> PartOutput:
        """Writes files of up to PIECE_DOCUMENTS: PART.NNNN.order.npy [3, D], as the interleave
        stage does, and PART.NNNN.groups.npy [D], the hashes of the keys."""
        found = [(np.empty(0, np.uint64), np.empty((2, 0), np.int64)), *self._documents(part)]
        keys = np.concatenate([keys for keys, _ in found])
        places = np.concatenate([places for _, places in found], axis=1)
        ascending = np.argsort(keys, kind="stable")  # documents come in the order of the source
        pieces: list[list[int]] = []
        names = []
        for first in range(0, len(keys), PIECE_DOCUMENTS):
            chosen = ascending[first : first + PIECE_DOCUMENTS]
            starts, lengths = places[:, chosen]
            name = piece_name(part, len(pieces))
            order = np.stack([np.zeros_like(starts), starts, lengths])
            for what, array in (("order", order), ("groups", keys[chosen])):
                names.append(f"{name}.{what}.npy")
                save_array(folder / names[-1], array)
            pieces.append([len(chosen), int(lengths.sum())])
        return PartOutput({"documents": len(keys), "pieces": pieces}, names)

    def _documents(self, part: OrderPart) -> Iterator[tuple[Any, I64]]:
        """(keys [D], starts and lengths [2, D]) of the documents of each file."""
        number = start = 0
        for segment in self.streams.sources[part.split, part.source]:
            if number < part.end and number + segment.documents > part.first:
                path = self.keys / f"{segment.name}.keys.npy"
                keys = np.load(path, mmap_mode="r")[: segment.documents]
                numbers = number + np.arange(segment.documents)
                buckets = buckets_of(keys)
                mine = (buckets >= part.first_bucket) & (buckets < part.end_bucket)
                mine &= (numbers >= part.first) & (numbers < part.end)
                if mine.any():
                    path = self.streams.encoded / f"{segment.name}.lengths.npy"
                    lengths = np.load(path)[: segment.documents].astype(np.int64)
                    starts = start + np.cumsum(lengths + 1) - (lengths + 1)
                    yield np.array(keys[mine]), np.stack([starts[mine], lengths[mine]])
            number += segment.documents
            start += segment.ids


def piece_name(part: Part, number: int) -> str:
    """The name, without suffix, of a file of a part."""
    return f"{part.name}.{number:04d}"


def order_stage(
    encoded: StageResult[DocumentFile],
    hashed: StageResult[DocumentFile],
    streams: Streams,
    at_once: int = ORDER_DOCUMENTS,
) -> OrderStage:
    """Parts of about `at_once` documents. They follow from the documents alone, not from how the
    input was divided."""
    parts = []
    contents = {}
    of_split = {
        split: hashed.contents(lambda file: file.source, f".{split}.keys")
        for split in ("train", "heldout")
    }
    for (split, source), segments in streams.sources.items():
        contents[split, source] = of_split[split].get(source, "")
        documents = sum(segment.documents for segment in segments)
        counts = np.zeros(BUCKETS + 1, np.int64)
        for segment in segments:
            counts += np.load(hashed.folder / f"{segment.name}.counts.npy")
        for number, ranges in enumerate(_ranges(counts, documents, at_once)):
            first_bucket, end_bucket, first, end = ranges
            parts.append(
                OrderPart(
                    name=f"{split}-{source}-{number:06d}",
                    split=split,
                    source=source,
                    first_bucket=first_bucket,
                    end_bucket=end_bucket,
                    first=first,
                    end=end,
                )
            )
    return OrderStage(
        parts=parts,
        inputs={
            "encode": encoded.content_fingerprint,
            "order_keys": hashed.content_fingerprint,
        },
        streams=streams,
        keys=hashed.folder,
        key_contents=contents,
        at_once=at_once,
    )


def _ranges(counts: I64, documents: int, at_once: int) -> Iterator[tuple[int, int, int, int]]:
    """(first bucket, end bucket, first document, end document) of each part, in their order."""
    first = total = 0
    for bucket, count in enumerate(counts.tolist()):
        if total and total + count > at_once:
            yield first, bucket, 0, documents
            first, total = bucket, 0
        if count > at_once:
            for low in range(0, documents, at_once):
                yield bucket, bucket + 1, low, min(low + at_once, documents)
            first = bucket + 1
        else:
            total += count
    if total:
        yield first, len(counts), 0, documents


def ordered_streams(streams: Streams, ordered: StageResult[OrderPart]) -> Streams:
    """The same streams, each in the order of its keys."""
    segments: dict[tuple[Split, str], list[Segment]] = {key: [] for key in streams.sources}
    for part, record in ordered.with_records():
        segments[part.split, part.source] += [
            Segment(piece_name(part, number), documents, tokens)
            for number, (documents, tokens) in enumerate(record["pieces"])
        ]
    orders = ordered.contents(lambda part: (part.split, part.source))
    contents = {
        key: fingerprint([orders.get(key), content]) for key, content in streams.contents.items()
    }
    return replace(streams, contents=contents, keyed=ordered.folder, keyed_segments=segments)


def segments_with(
    ordered: StageResult[OrderPart], split: Split, source: str, bucket: int, number: int
) -> Sequence[str]:
    """The names of the files that may hold document `number` of a source, its key in `bucket`."""
    return [
        piece_name(part, piece)
        for part, record in ordered.with_records()
        if (part.split, part.source) == (split, source)
        and part.first_bucket <= bucket < part.end_bucket
        and part.first <= number < part.end
        for piece in range(len(record["pieces"]))
    ]
