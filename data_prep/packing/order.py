"""The stage that orders the documents of a source by a key (`pack.order_by`), and its streams.

Documents with equal keys stand one after another, in the order of the source; the keys stand in the
order of their hashes, so that neighbouring groups have nothing in common. Documents without a key
come last, in the order of the source. A part sorts a range of hashes, which keeps memory constant;
it reads its slice of each run of files, see `order_runs`. Where one range of hashes has more
documents than are sorted at once, as with a key that most documents have, each part sorts a range
of the source's documents instead, from the runs that have these, and the group is divided among
the parts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from configs.load import fingerprint
from data_prep.dataset.atomic import save_array
from data_prep.dataset.manifest import SPLITS, Split
from data_prep.dedup.array_files import ArrayFiles
from data_prep.dedup.signatures import FileRun
from data_prep.engine.stage import Part, PartOutput, Stage, StageResult
from data_prep.packing.id_stream import I64, Segment
from data_prep.packing.order_keys import BUCKETS, U64, buckets_of
from data_prep.packing.order_runs import COLUMNS
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
    version = 2
    output = "order"

    streams: Streams
    sorted_keys: Path
    """Folder of the stage that sorted the keys of runs of files."""
    runs: Mapping[tuple[Split, str], Sequence[Segment]]
    """What the streams have of the runs, in their order, by split and source."""
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
        """(keys [D], starts and lengths [2, D]) of the documents of each run."""
        files = ArrayFiles(self.sorted_keys, 1)
        number = start = 0
        for run in self.runs[part.split, part.source]:
            if number < part.end and number + run.documents > part.first:
                rows = _slice(files, run.name, part.first_bucket, part.end_bucket)
                numbers, starts, lengths = rows[1:].view(np.int64)
                # A run may have more documents than the stream, see `max_tokens`.
                first, end = part.first - number, min(part.end - number, run.documents)
                mine = (numbers >= first) & (numbers < end)
                yield rows[0, mine], np.stack([start + starts[mine], lengths[mine]])
            number += run.documents
            start += run.ids


def _slice(files: ArrayFiles, run: str, first_bucket: int, end_bucket: int) -> U64:
    """The columns of a run whose hashes are in the buckets: [COLUMNS, n]."""
    bounds = np.empty(end_bucket + 1 - first_bucket, np.int64)
    files.read(f"{run}.bounds.npy", first_bucket, bounds)
    low, high = int(bounds[0]), int(bounds[-1])
    name = f"{run}.sorted.npy"
    _, length = files.shape(name)
    rows = np.empty((COLUMNS, high - low), np.uint64)
    for column in range(COLUMNS):
        files.read(name, column * length + low, rows[column])
    return rows


def piece_name(part: Part, number: int) -> str:
    """The name, without suffix, of a file of a part."""
    return f"{part.name}.{number:04d}"


def order_stage(
    sorted_keys: StageResult[FileRun], streams: Streams, at_once: int = ORDER_DOCUMENTS
) -> OrderStage:
    """Parts of about `at_once` documents. They follow from the documents alone, not from how the
    input was divided."""
    parts = []
    contents = {}
    runs = {key: _runs(sorted_keys, *key, streams) for key in streams.sources}
    of_split = {
        split: sorted_keys.contents(lambda run: run.source, f".{split}.") for split in SPLITS
    }
    for (split, source), segments in runs.items():
        contents[split, source] = of_split[split].get(source, "")
        documents = sum(segment.documents for segment in segments)
        counts = np.zeros(BUCKETS + 1, np.int64)
        for segment in segments:
            counts += _counts(sorted_keys.folder, segment)
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
        inputs={"order_runs": sorted_keys.content_fingerprint},
        streams=streams,
        sorted_keys=sorted_keys.folder,
        runs=runs,
        key_contents=contents,
        at_once=at_once,
    )


def _runs(
    sorted_keys: StageResult[FileRun], split: Split, source: str, streams: Streams
) -> list[Segment]:
    """What a stream has of each run of files of its source."""
    of_file = {segment.name: segment for segment in streams.sources[split, source]}
    runs = []
    for run in sorted_keys.parts:
        names = [f"{file.name}.{split}" for file in run.files if run.source == source]
        found = [of_file[name] for name in names if name in of_file]
        documents = sum(segment.documents for segment in found)
        if documents:
            tokens = sum(segment.tokens for segment in found)
            runs.append(Segment(f"{run.name}.{split}", documents, tokens))
    return runs


def _counts(sorted_keys: Path, run: Segment) -> I64:
    """[BUCKETS + 1] documents in each bucket, of those that a stream has of a run."""
    bounds: I64 = np.load(sorted_keys / f"{run.name}.bounds.npy")
    if bounds[-1] == run.documents:
        return np.diff(bounds)
    # The stream ends within the run, see `max_tokens`.
    keys, numbers = np.load(sorted_keys / f"{run.name}.sorted.npy", mmap_mode="r")[:2]
    mine = buckets_of(keys[numbers < run.documents])
    return np.bincount(mine, minlength=BUCKETS + 1)


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
