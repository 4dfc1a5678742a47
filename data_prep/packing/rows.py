"""The last stages: where each document's ids go (layout), and the shards themselves (rows)."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.dataset.atomic import save_array
from data_prep.dataset.manifest import SPLITS, Manifest, SourceRows, SpecialTokens, TokenizerFile
from data_prep.dataset.shard_writer import ShardWriter
from data_prep.engine.stages import Part, Record, Stage, StageResult
from data_prep.packing.config import PackConfig
from data_prep.packing.id_stream import IdStream, Streams, spread
from data_prep.packing.placement import EDGE_TOKENS, PACKERS, Placements, full_sentences_rows

LAYOUT, ROWS = "layout", "rows"
_BUFFER_DOCUMENTS = 50_000
"""Documents that are placed together: never more in memory, and the same whatever the parts."""


def layout_stage(streamed: StageResult, config: PackConfig, streams: Streams) -> Stage:
    """Placements of every buffer of documents; no parts for full_sentences."""
    parts = []
    if config.mode in PACKERS:
        for (split, source), entries in streams.entries.items():
            documents = sum(count for _, count, _ in entries)
            for first in range(0, documents, _BUFFER_DOCUMENTS):
                last = min(first + _BUFFER_DOCUMENTS, documents)
                place = {"split": split, "source": source, "first": first, "last": last}
                parts.append(Part(f"{split}-{source}-{first // _BUFFER_DOCUMENTS:06d}", place))
    return Stage(
        LAYOUT,
        1,
        {"mode": config.mode, "row_tokens": config.row_tokens, "buffer": _BUFFER_DOCUMENTS},
        {streamed.folder.name: streamed.content_fingerprint},
        parts,
        layout_part,
        {"streams": streams},
    )


def layout_part(
    folder: Path, part: Part, settings: Mapping[str, Any]
) -> tuple[Record, Sequence[str]]:
    """Writes PART.placements.npy [4, pieces]."""
    place = part.arguments
    stream = settings["streams"].open(place["split"], place["source"])
    lengths, starts = stream.documents(place["first"], place["last"])
    placements = PACKERS[settings["mode"]](lengths, starts, settings["row_tokens"])
    save_array(folder / f"{part.name}.placements.npy", np.stack(placements))
    return {"rows": placements.num_rows, "pieces": len(placements.row)}, [
        f"{part.name}.placements.npy"
    ]


def rows_stage(
    layout: StageResult,
    config: PackConfig,
    streams: Streams,
    special: SpecialTokens,
    output: Path,
) -> Stage:
    """One part a shard."""
    row_bytes = config.row_tokens * np.dtype(streams.dtype).itemsize
    blocks_a_shard = max(config.shard_mb * 1_000_000 // (row_bytes * config.block_rows), 1)
    shard_rows = blocks_a_shard * config.block_rows
    parts = []
    buffers: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for placed, record in zip(layout.parts, layout.records, strict=True):
        key = placed.arguments["split"], placed.arguments["source"]
        buffers.setdefault(key, []).append((placed.name, record["rows"]))
    for (split, source), entries in streams.entries.items():
        if config.mode in PACKERS:
            num_rows = sum(rows for _, rows in buffers.get((split, source), []))
        else:
            num_ids = sum(documents + tokens for _, documents, tokens in entries)
            num_rows = full_sentences_rows(num_ids, config.row_tokens)
        for number, first in enumerate(range(0, num_rows, shard_rows)):
            rows = min(shard_rows, num_rows - first)
            place = {"split": split, "source": source, "first": first, "rows": rows}
            parts.append(Part(f"{split}-{source}-{number:06d}", place, rows * row_bytes))
    return Stage(
        ROWS,
        1,
        {
            **config.model_dump(mode="json", exclude={"mixed"}),
            "special": special.model_dump(),
        },
        {"layout": layout.content_fingerprint},
        parts,
        rows_part,
        {
            "layout": str(layout.folder),
            "streams": streams,
            "buffers": buffers,
            "dtype": streams.dtype,
            "output": str(output),
        },
        output / "shards",
    )


def rows_part(
    folder: Path, part: Part, settings: Mapping[str, Any]
) -> tuple[Record, Sequence[str]]:
    """Writes one shard, PART.tar."""
    place = part.arguments
    key = place["split"], place["source"]
    stream = settings["streams"].open(*key)
    block_rows = settings["block_rows"]
    name = f"{part.name}.tar"
    buffers = settings["buffers"].get(key, [])
    names = [buffer for buffer, _ in buffers]
    firsts = [0, *accumulate(rows for _, rows in buffers)][: len(buffers)]
    with ShardWriter(
        folder.parent, f"{folder.name}/{name}", *key, place["first"], settings["dtype"]
    ) as writer:
        for first in range(place["first"], place["first"] + place["rows"], block_rows):
            last = min(first + block_rows, place["first"] + place["rows"])
            if settings["mode"] in PACKERS:
                pieces = _placements(Path(settings["layout"]), names, firsts, first, last)
                block = placed_rows(stream, pieces, last - first, settings)
            else:
                block = running_rows(stream, first, last, settings)
            writer.write_block(block)
    assert writer.shard is not None
    return {"shard": writer.shard.model_dump(mode="json")}, [name]


def running_rows(
    stream: IdStream, first: int, last: int, settings: Mapping[str, Any]
) -> npt.NDArray[Any]:
    """The full_sentences rows `first` to `last`: [last - first, row_tokens]."""
    width = settings["row_tokens"] - EDGE_TOKENS
    special = settings["special"]
    ids = stream.read(first * width, last * width)
    rows = np.full((last - first, width + EDGE_TOKENS), special["pad"], dtype=ids.dtype)
    full = len(ids) // width
    rows[:, 0] = special["bos"]
    rows[:full, 1:-1] = ids[: full * width].reshape(full, width)
    rows[:full, -1] = special["eos"]
    rest = ids[full * width :]
    if len(rest):
        rows[full, 1 : 1 + len(rest)] = rest
        rows[full, 1 + len(rest)] = special["eos"]
    return rows


def placed_rows(
    stream: IdStream, pieces: Placements, num_rows: int, settings: Mapping[str, Any]
) -> npt.NDArray[Any]:
    """Rows with each piece in its place between its own ``<s>`` and ``</s>``."""
    special = settings["special"]
    row_tokens = settings["row_tokens"]
    rows = np.full(num_rows * row_tokens, special["pad"], settings["dtype"])
    begin = pieces.row * row_tokens + pieces.column
    rows[begin] = special["bos"]
    rows[spread(begin + 1, pieces.length)] = stream.gather(pieces.start, pieces.length)
    rows[begin + 1 + pieces.length] = special["eos"]
    return rows.reshape(num_rows, row_tokens)


def _placements(
    folder: Path, names: Sequence[str], firsts: Sequence[int], first: int, last: int
) -> Placements:
    """The placements of the rows `first` to `last`, their rows counted from `first`.

    `names` and `firsts` are the buffers and the first row of each.
    """
    found: list[npt.NDArray[np.int64]] = [np.empty((4, 0), np.int64)]
    for buffer in range(bisect_right(firsts, first) - 1, bisect_left(firsts, last)):
        pieces = np.load(folder / f"{names[buffer]}.placements.npy")
        row = pieces[0] + firsts[buffer] - first
        inside = slice(*np.searchsorted(row, [0, last - first]))
        found.append(np.concatenate([row[None, inside], pieces[1:, inside]]))
    return Placements(*np.concatenate(found, axis=1))


def manifest_of(
    rows: StageResult,
    config: PackConfig,
    streams: Streams,
    special: SpecialTokens,
    tokenizer: TokenizerFile,
    stages: Mapping[str, str],
) -> Manifest:
    """The manifest of the finished shards."""
    splits: dict[Any, dict[str, SourceRows]] = {split: {} for split in SPLITS}
    for (split, source), entries in streams.entries.items():
        shards = [
            record["shard"]
            for part, record in zip(rows.parts, rows.records, strict=True)
            if (part.arguments["split"], part.arguments["source"]) == (split, source)
        ]
        splits[split][source] = SourceRows(
            rows=sum(shard["rows"] for shard in shards),
            documents=sum(documents for _, documents, _ in entries),
            tokens=sum(tokens for _, _, tokens in entries),
            block_rows=config.block_rows,
            shards=tuple(shards),
        )
    return Manifest(
        format_version=1,
        row_tokens=config.row_tokens,
        vocab_size=special.mask + 1,
        dtype=streams.dtype,
        packing=config.mode,
        tokenizer=tokenizer,
        special_tokens=special,
        stages=dict(stages),
        splits=splits,
    )
