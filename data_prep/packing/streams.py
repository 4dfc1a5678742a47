"""All id streams of a run, and the stage that interleaves the sources."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from configs.load import fingerprint
from data_prep.dataset.atomic import save_array
from data_prep.dataset.manifest import SPLITS, Split
from data_prep.documents.files import DocumentFile
from data_prep.engine.stage import Part, PartOutput, Stage, StageResult
from data_prep.packing.amounts import first_tokens, repeated_count, repeated_documents
from data_prep.packing.id_stream import IdStream, KeyedStream, MixedStream, Segment, SourceStream

MIXED = "mixed"
"""Name of the one source of rows that hold documents of all sources."""
RANGE_DOCUMENTS = 50_000


@dataclass(frozen=True)
class Streams:
    """All streams of a run."""

    encoded: Path
    """Folder of the encode stage."""
    dtype: Literal["uint16", "uint32"]
    sources: Mapping[tuple[Split, str], Sequence[Segment]]
    """By split and source."""
    contents: Mapping[tuple[Split, str], str]
    """A hash of the files of each of the streams that rows are cut from."""
    order: Path | None = None
    """Folder of the interleave stage, if there is one."""
    mixed: Mapping[Split, Sequence[Segment]] = field(default_factory=dict)
    """Segments of the interleaved streams, by split."""
    keyed: Path | None = None
    """Folder of the order stage, if there is one."""
    keyed_segments: Mapping[tuple[Split, str], Sequence[Segment]] = field(default_factory=dict)
    """Segments of the streams in the order of their keys, by split and source."""
    max_tokens: Mapping[str, int] = field(default_factory=dict)
    """Most tokens of the training documents, by source, where there is a limit."""
    left_out: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """(documents, tokens) beyond that limit, by source."""

    @property
    def packed(self) -> dict[tuple[Split, str], Sequence[Segment]]:
        """The streams that rows are cut from, by split and source (or MIXED)."""
        if self.order is not None:
            return {(split, MIXED): segments for split, segments in self.mixed.items()}
        return dict(self.sources if self.keyed is None else self.keyed_segments)

    def open(self, split: Split, source: str) -> IdStream:
        """One stream of `packed`."""
        if self.order is None:
            stream = SourceStream(self.encoded, self.sources[split, source], self.dtype)
            if self.keyed is None:
                return stream
            return KeyedStream(self.keyed, self.keyed_segments[split, source], [stream])
        return MixedStream(self.order, self.mixed[split], self.open_sources(split))

    def open_sources(self, split: Split) -> list[IdStream]:
        """The streams of all sources."""
        return [
            SourceStream(self.encoded, segments, self.dtype)
            for (of, _), segments in self.sources.items()
            if of == split
        ]

    def documents(self, split: Split) -> list[int]:
        """The number of documents of each source in a split."""
        return [
            sum(segment.documents for segment in segments)
            for (of, _), segments in self.sources.items()
            if of == split
        ]


def source_streams(
    encoded: StageResult[DocumentFile],
    sources: Sequence[str],
    dtype: Literal["uint16", "uint32"],
    max_tokens: Mapping[str, int] | None = None,
) -> Streams:
    """The streams of the sources, those of training documents up to `max_tokens`."""
    segments: dict[tuple[Split, str], list[Segment]] = {
        (split, source): [] for split in SPLITS for source in sources
    }
    for part, record in encoded.with_records():
        for split in SPLITS:
            documents, tokens = record[f"{split}_documents"], record[f"{split}_tokens"]
            segment = Segment(f"{part.name}.{split}", documents, tokens)
            segments[split, part.source].append(segment)
    of_split = {split: encoded.contents(lambda p: p.source, f".{split}.") for split in SPLITS}
    contents = {(split, source): of_split[split].get(source, "") for split, source in segments}
    left_out = {}
    for source, most in (max_tokens or {}).items():
        of_all = segments["train", source]
        segments["train", source] = first = first_tokens(encoded.folder, of_all, most)
        contents["train", source] = fingerprint([contents["train", source], most])
        documents = sum(s.documents for s in of_all) - sum(s.documents for s in first)
        left_out[source] = documents, sum(s.tokens for s in of_all) - sum(s.tokens for s in first)
    return Streams(
        encoded.folder,
        dtype,
        segments,
        contents,
        max_tokens=max_tokens or {},
        left_out=left_out,
    )


@dataclass(frozen=True, kw_only=True)
class InterleavePart(Part):
    """Range `number` of `num_ranges` of the documents of every source in a split."""

    split: Split
    number: int
    num_ranges: int
    documents: Sequence[int]
    """Documents of each source."""
    counts: Sequence[int]
    """The same, repeated ones as often as they are repeated."""

    def plan(self) -> dict[str, Any]:
        plan = {
            "split": self.split,
            "number": self.number,
            "ranges": self.num_ranges,
            "counts": list(self.counts),
        }
        return plan if self.documents == self.counts else {**plan, "of": list(self.documents)}


@dataclass(frozen=True, kw_only=True)
class InterleaveStage(Stage[InterleavePart]):
    """Orders the documents of all sources so that every range of rows has all in proportion.

    Document i of the D of a source is at (i + 1/2) / D of the stream. That depends on the
    documents only, not on parts. A source may be repeated, see `amounts.repeated`; held-out
    documents are not.
    """

    name = "interleave"
    version = 1
    output = "order"

    streams: Streams
    range_documents: int = RANGE_DOCUMENTS
    """Documents of a part."""
    repeats: Mapping[str, float] = field(default_factory=dict)
    """How many times training documents are repeated, by source, where it is not 1."""

    @property
    def settings(self) -> Mapping[str, Any]:
        chosen = {"repeat": self.repeats, "max_tokens": self.streams.max_tokens}
        used = {key: dict(value) for key, value in chosen.items() if value}
        return {"range": self.range_documents, **used}

    def run_part(self, folder: Path, part: InterleavePart) -> PartOutput:
        """Writes PART.order.npy [3, D]: source, first id in its stream, ids without separator."""
        positions, columns = [np.empty(0)], [np.empty((3, 0), np.int64)]
        for number, stream in enumerate(self.streams.open_sources(part.split)):
            count = part.counts[number]
            first = first_in_range(count, part.number, part.num_ranges)
            end = first_in_range(count, part.number + 1, part.num_ranges)
            documents = part.documents[number]
            lengths, starts = repeated_documents(stream, documents, count, first, end)
            positions.append((2 * np.arange(first, end) + 1) / (2 * max(count, 1)))
            columns.append(np.stack([np.full(len(lengths), number), starts, lengths]))
        ascending = np.argsort(np.concatenate(positions), kind="stable")
        order = np.concatenate(columns, axis=1)[:, ascending]
        save_array(folder / f"{part.name}.order.npy", order)
        counts = {"documents": order.shape[1], "tokens": int(order[2].sum())}
        return PartOutput(counts, [f"{part.name}.order.npy"])


def interleave_stage(
    encoded: StageResult[DocumentFile],
    streams: Streams,
    range_documents: int = RANGE_DOCUMENTS,
    repeats: Mapping[str, float] | None = None,
) -> InterleaveStage:
    """A part for about every `range_documents` of a split; `repeats` are those of sources."""
    parts = []
    repeats = repeats or {}
    for split in SPLITS:
        counts = documents = streams.documents(split)
        if split == "train":
            names = [source for of, source in streams.sources if of == split]
            counts = [
                repeated_count(count, repeats.get(name, 1))
                for name, count in zip(names, documents, strict=True)
            ]
        num_ranges = -(-sum(counts) // range_documents)
        parts += [
            InterleavePart(
                name=f"{split}-{number:06d}",
                split=split,
                number=number,
                num_ranges=num_ranges,
                documents=documents,
                counts=counts,
            )
            for number in range(num_ranges)
        ]
    return InterleaveStage(
        parts=parts,
        inputs={"encode": encoded.content_fingerprint},
        streams=streams,
        range_documents=range_documents,
        repeats=repeats,
    )


def mixed_streams(streams: Streams, interleaved: StageResult[InterleavePart]) -> Streams:
    """The same streams, interleaved."""
    mixed: dict[Split, list[Segment]] = {split: [] for split in SPLITS}
    for part, record in interleaved.with_records():
        mixed[part.split].append(Segment(part.name, record["documents"], record["tokens"]))
    orders = interleaved.contents(lambda part: part.split)
    contents = {
        (split, MIXED): fingerprint(
            [orders.get(split), [v for (of, _), v in streams.contents.items() if of == split]]
        )
        for split in SPLITS
    }
    return replace(streams, contents=contents, order=interleaved.folder, mixed=mixed)


def first_in_range(count: int, number: int, num_ranges: int) -> int:
    """The first of `count` documents whose position is `number` / `num_ranges` or later."""
    return min(max(-((num_ranges - 2 * count * number) // (2 * num_ranges)), 0), count)
