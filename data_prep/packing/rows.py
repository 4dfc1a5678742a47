"""The last stage: writes the shards of rows, and their entries of the manifest."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.dataset.manifest import (
    SPLITS,
    Manifest,
    SourceRows,
    SpecialTokens,
    Split,
    TokenizerFile,
)
from data_prep.dataset.shard_writer import ShardWriter
from data_prep.engine.stage import Part, PartOutput, Stage, StageResult
from data_prep.packing.config import PackConfig
from data_prep.packing.id_stream import IdStream, spread
from data_prep.packing.layout import LayoutPart
from data_prep.packing.placement import EDGE_TOKENS, PACKERS, Placements, full_sentences_rows
from data_prep.packing.streams import Streams


@dataclass(frozen=True, kw_only=True)
class ShardPart(Part):
    """The rows of a shard."""

    split: Split
    source: str
    first: int
    """Number of its first row in the source."""
    num_rows: int

    def plan(self) -> dict[str, Any]:
        return {
            "split": self.split,
            "source": self.source,
            "first": self.first,
            "rows": self.num_rows,
        }


class Buffer(NamedTuple):
    """Documents that were placed together in rows of their own."""

    name: str
    """Of the part of the layout stage."""
    rows: int


@dataclass(frozen=True, kw_only=True)
class RowsStage(Stage[ShardPart]):
    """Writes the shards of rows."""

    name = "rows"
    version = 1
    output = "`shards/*.tar`"

    config: PackConfig
    special: SpecialTokens
    streams: Streams
    layout: Path
    """Folder of the layout stage."""
    buffers: Mapping[tuple[Split, str], Sequence[Buffer]]
    """By split and source."""
    layouts: Mapping[tuple[Split, str], str]
    """A hash of the placements, by split and source."""
    data_set: Path
    """Folder of the data set."""

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            **self.config.model_dump(mode="json", exclude={"mixed", "order_by"}),
            "special": self.special.tree(),
        }

    @property
    def output_folder(self) -> Path:
        return self.data_set / "shards"

    def inputs_for(self, part: ShardPart) -> Mapping[str, str]:
        key = part.split, part.source
        return {"stream": self.streams.contents[key], "layout": self.layouts.get(key, "")}

    def run_part(self, folder: Path, part: ShardPart) -> PartOutput:
        """Writes one shard, PART.tar."""
        stream = self.streams.open(part.split, part.source)
        buffers = self.buffers.get((part.split, part.source), [])
        first_rows = [0, *accumulate(buffer.rows for buffer in buffers)][: len(buffers)]
        row_tokens, dtype = self.config.row_tokens, self.streams.dtype
        name = f"{part.name}.tar"
        end = part.first + part.num_rows
        with ShardWriter(
            folder.parent, f"{folder.name}/{name}", part.split, part.source, part.first, dtype
        ) as writer:
            for first in range(part.first, end, self.config.block_rows):
                block_end = min(first + self.config.block_rows, end)
                if self.config.mode in PACKERS:
                    pieces = _placements(self.layout, buffers, first_rows, first, block_end)
                    block = placed_rows(
                        stream, pieces, block_end - first, row_tokens, self.special, dtype
                    )
                else:
                    block = running_rows(stream, first, block_end, row_tokens, self.special)
                writer.write_block(block)
        assert writer.shard is not None
        return PartOutput({"shard": writer.shard.model_dump(mode="json")}, [name])


def rows_stage(
    layout: StageResult[LayoutPart],
    config: PackConfig,
    streams: Streams,
    special: SpecialTokens,
    data_set: Path,
) -> RowsStage:
    """A part for each shard; `data_set` is the output folder."""
    row_bytes = config.row_tokens * np.dtype(streams.dtype).itemsize
    blocks_per_shard = max(config.shard_mb * 1_000_000 // (row_bytes * config.block_rows), 1)
    shard_rows = blocks_per_shard * config.block_rows
    buffers: dict[tuple[Split, str], list[Buffer]] = {}
    for placed, record in layout.with_records():
        key = placed.split, placed.source
        buffers.setdefault(key, []).append(Buffer(placed.name, record["rows"]))
    parts = []
    for (split, source), segments in streams.packed.items():
        if config.mode in PACKERS:
            num_rows = sum(buffer.rows for buffer in buffers.get((split, source), []))
        else:
            num_ids = sum(segment.ids for segment in segments)
            num_rows = full_sentences_rows(num_ids, config.row_tokens)
        for number, first in enumerate(range(0, num_rows, shard_rows)):
            rows = min(shard_rows, num_rows - first)
            parts.append(
                ShardPart(
                    name=f"{split}-{source}-{number:06d}",
                    num_bytes=rows * row_bytes,
                    split=split,
                    source=source,
                    first=first,
                    num_rows=rows,
                )
            )
    return RowsStage(
        parts=parts,
        inputs={"layout": layout.content_fingerprint},
        config=config,
        special=special,
        streams=streams,
        layout=layout.folder,
        buffers=buffers,
        layouts=layout.contents(lambda placed: (placed.split, placed.source)),
        data_set=data_set,
    )


def running_rows(
    stream: IdStream, first: int, end: int, row_tokens: int, special: SpecialTokens
) -> npt.NDArray[Any]:
    """The full_sentences rows [first, end): [end - first, row_tokens]."""
    width = row_tokens - EDGE_TOKENS
    ids = stream.read(first * width, end * width)
    rows = np.full((end - first, row_tokens), special.pad, dtype=ids.dtype)
    full = len(ids) // width
    rows[:, 0] = special.bos
    rows[:full, 1:-1] = ids[: full * width].reshape(full, width)
    rows[:full, -1] = special.eos
    rest = ids[full * width :]
    if len(rest):
        rows[full, 1 : 1 + len(rest)] = rest
        rows[full, 1 + len(rest)] = special.eos
    return rows


def placed_rows(
    stream: IdStream,
    pieces: Placements,
    num_rows: int,
    row_tokens: int,
    special: SpecialTokens,
    dtype: str,
) -> npt.NDArray[Any]:
    """Rows with each piece in its place, between its own ``<s>`` and ``</s>``."""
    rows = np.full(num_rows * row_tokens, special.pad, dtype)
    start = pieces.row * row_tokens + pieces.column
    rows[start] = special.bos
    rows[spread(start + 1, pieces.length)] = stream.gather(pieces.start, pieces.length)
    rows[start + 1 + pieces.length] = special.eos
    return rows.reshape(num_rows, row_tokens)


def _placements(
    folder: Path, buffers: Sequence[Buffer], first_rows: Sequence[int], first: int, end: int
) -> Placements:
    """The placements of the rows [first, end), their rows counted from `first`.

    `first_rows` are the numbers of the first row of each buffer.
    """
    found: list[npt.NDArray[np.int64]] = [np.empty((4, 0), np.int64)]
    for number in range(bisect_right(first_rows, first) - 1, bisect_left(first_rows, end)):
        pieces = np.load(folder / f"{buffers[number].name}.placements.npy")
        row = pieces[0] + first_rows[number] - first
        inside = slice(*np.searchsorted(row, [0, end - first]))
        found.append(np.concatenate([row[None, inside], pieces[1:, inside]]))
    return Placements(*np.concatenate(found, axis=1))


def manifest_of(
    rows: StageResult[ShardPart],
    config: PackConfig,
    streams: Streams,
    special: SpecialTokens,
    vocab_size: int,
    tokenizer: TokenizerFile,
    stages: Mapping[str, str],
) -> Manifest:
    """The manifest of the finished shards; `stages` are the content fingerprints of all stages."""
    splits: dict[Split, dict[str, SourceRows]] = {split: {} for split in SPLITS}
    for (split, source), segments in streams.packed.items():
        shards = [
            record["shard"]
            for part, record in rows.with_records()
            if (part.split, part.source) == (split, source)
        ]
        splits[split][source] = SourceRows(
            rows=sum(shard["rows"] for shard in shards),
            documents=sum(segment.documents for segment in segments),
            tokens=sum(segment.tokens for segment in segments),
            block_rows=config.block_rows,
            shards=tuple(shards),
        )
    return Manifest(
        format_version=1,
        row_tokens=config.row_tokens,
        vocab_size=vocab_size,
        dtype=streams.dtype,
        packing=config.mode,
        tokenizer=tokenizer,
        special_tokens=special,
        stages=dict(stages),
        splits=splits,
    )
