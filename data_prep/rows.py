"""The last stages: where each document's ids go (layout), and the shards themselves (rows)."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.config import PackConfig
from data_prep.dedup import save_array
from data_prep.encode import SPLITS
from data_prep.pack import EDGE_TOKENS, PACKERS, Placements, full_sentences_rows
from data_prep.shards import Manifest, ShardWriter, SourceRows, SpecialTokens, TokenizerFile
from data_prep.stages import Part, Record, Stage, StageResult

LAYOUT, ROWS = "layout", "rows"
_BUFFER_DOCUMENTS = 50_000
"""Documents that are placed together: never more in memory, and the same whatever the parts."""


class IdStream:
    """The ids of one source and split as one long array over the parts' files, separators
    included: document d's ids, ``</s>``, document d + 1's ids, ``</s>``, ..."""

    def __init__(self, folder: Path, parts: Sequence[tuple[str, int, int]], dtype: str) -> None:
        """`parts` are (file name without suffix, documents, tokens) in their order."""
        self._folder = folder
        self._names = [name for name, documents, _ in parts if documents]
        documents = [documents for _, documents, _ in parts if documents]
        ids = [documents + tokens for _, documents, tokens in parts if documents]
        self._first_document = np.append(0, np.cumsum(documents, dtype=np.int64))
        self._first_id = np.append(0, np.cumsum(ids, dtype=np.int64))
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self.num_documents, self.num_ids = int(self._first_document[-1]), int(self._first_id[-1])

    def read(self, start: int, end: int) -> npt.NDArray[Any]:
        """The ids `start` to `end` of the stream."""
        pieces = [np.empty(0, self._dtype)]
        first = int(np.searchsorted(self._first_id, start, side="right")) - 1
        for part in range(first, len(self._names)):
            begin = self._first_id[part]
            if begin >= end:
                break
            low, high = max(start - begin, 0), min(end, self._first_id[part + 1]) - begin
            path = self._folder / f"{self._names[part]}.ids"
            offset = int(low) * self._dtype.itemsize
            pieces.append(np.fromfile(path, self._dtype, int(high - low), offset=offset))
        return np.concatenate(pieces)

    def documents(self, first: int, last: int) -> tuple[npt.NDArray[np.int64], Any]:
        """(lengths, where they start in the stream) of the documents `first` to `last`."""
        lengths, starts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for part, (begin, end) in enumerate(pairwise(self._first_document)):
            if begin < last and end > first:
                path = self._folder / f"{self._names[part]}.lengths.npy"
                here = np.load(path).astype(np.int64)
                where = self._first_id[part] + np.cumsum(here + 1) - (here + 1)
                window = slice(max(first - begin, 0), last - begin)
                lengths.append(here[window])
                starts.append(where[window])
        return np.concatenate(lengths), np.concatenate(starts)


def streams(encoded: StageResult, sources: Sequence[str]) -> dict[tuple[str, str], list[Any]]:
    """For each split and source, the parts of its stream as IdStream takes them."""
    result: dict[tuple[str, str], list[Any]] = {(sp, so): [] for sp in SPLITS for so in sources}
    for part, record in zip(encoded.parts, encoded.records, strict=True):
        for split in SPLITS:
            entry = f"{part.name}.{split}", record[f"{split}_documents"], record[f"{split}_tokens"]
            result[split, part.name.rpartition("-")[0]].append(entry)
    return result


def layout_stage(
    encoded: StageResult, config: PackConfig, sources: Sequence[str], dtype: str
) -> Stage:
    """Placements of every buffer of documents; no parts for full_sentences."""
    parts = []
    if config.mode in PACKERS:
        for (split, source), entries in streams(encoded, sources).items():
            documents = sum(count for _, count, _ in entries)
            for first in range(0, documents, _BUFFER_DOCUMENTS):
                last = min(first + _BUFFER_DOCUMENTS, documents)
                place = {"split": split, "source": source, "first": first, "last": last}
                parts.append(Part(f"{split}-{source}-{first // _BUFFER_DOCUMENTS:06d}", place))
    return Stage(
        LAYOUT,
        1,
        {"mode": config.mode, "row_tokens": config.row_tokens, "buffer": _BUFFER_DOCUMENTS},
        {"encode": encoded.content_fingerprint},
        parts,
        layout_part,
        {
            "encoded": str(encoded.folder),
            "dtype": dtype,
            "streams": streams(encoded, sources),
        },
    )


def layout_part(
    folder: Path, part: Part, settings: Mapping[str, Any]
) -> tuple[Record, Sequence[str]]:
    """Writes PART.placements.npy [4, pieces]."""
    place = part.arguments
    entries = settings["streams"][place["split"], place["source"]]
    stream = IdStream(Path(settings["encoded"]), entries, settings["dtype"])
    lengths, starts = stream.documents(place["first"], place["last"])
    placements = PACKERS[settings["mode"]](lengths, starts, settings["row_tokens"])
    save_array(folder / f"{part.name}.placements.npy", np.stack(placements))
    return {"rows": placements.num_rows, "pieces": len(placements.row)}, [
        f"{part.name}.placements.npy"
    ]


def rows_stage(
    encoded: StageResult,
    layout: StageResult,
    config: PackConfig,
    sources: Sequence[str],
    special: SpecialTokens,
    dtype: str,
    output: Path,
) -> Stage:
    """One part a shard."""
    row_bytes = config.row_tokens * np.dtype(dtype).itemsize
    blocks_a_shard = max(config.shard_mb * 1_000_000 // (row_bytes * config.block_rows), 1)
    shard_rows = blocks_a_shard * config.block_rows
    parts = []
    buffers: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for placed, record in zip(layout.parts, layout.records, strict=True):
        key = placed.arguments["split"], placed.arguments["source"]
        buffers.setdefault(key, []).append((placed.name, record["rows"]))
    by_stream = streams(encoded, sources)
    for (split, source), entries in by_stream.items():
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
        {**config.model_dump(mode="json"), "special": special.model_dump()},
        {"layout": layout.content_fingerprint},
        parts,
        rows_part,
        {
            "encoded": str(encoded.folder),
            "layout": str(layout.folder),
            "streams": by_stream,
            "buffers": buffers,
            "dtype": dtype,
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
    stream = IdStream(Path(settings["encoded"]), settings["streams"][key], settings["dtype"])
    block_rows = settings["block_rows"]
    name = f"{part.name}.tar"
    with ShardWriter(
        folder.parent, f"{folder.name}/{name}", *key, place["first"], settings["dtype"]
    ) as writer:
        for first in range(place["first"], place["first"] + place["rows"], block_rows):
            last = min(first + block_rows, place["first"] + place["rows"])
            if settings["mode"] in PACKERS:
                pieces = _placements(
                    Path(settings["layout"]), settings["buffers"][key], first, last
                )
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
    rows = np.full((num_rows, settings["row_tokens"]), special["pad"], settings["dtype"])
    for row, column, start, length in zip(*(a.tolist() for a in pieces), strict=True):
        rows[row, column] = special["bos"]
        rows[row, column + 1 : column + 1 + length] = stream.read(start, start + length)
        rows[row, column + 1 + length] = special["eos"]
    return rows


def _placements(
    folder: Path, buffers: Sequence[tuple[str, int]], first: int, last: int
) -> Placements:
    """The placements of the rows `first` to `last`, their rows counted from `first`."""
    found: list[npt.NDArray[np.int64]] = [np.empty((4, 0), np.int64)]
    begin = 0
    for name, rows in buffers:
        if begin < last and begin + rows > first:
            pieces = np.load(folder / f"{name}.placements.npy")
            row = pieces[0] + begin - first
            inside = slice(*np.searchsorted(row, [0, last - first]))
            found.append(np.concatenate([row[None, inside], pieces[1:, inside]]))
        begin += rows
    return Placements(*np.concatenate(found, axis=1))


def manifest_of(
    encoded: StageResult,
    rows: StageResult,
    config: PackConfig,
    sources: Sequence[str],
    special: SpecialTokens,
    dtype: Any,
    tokenizer: TokenizerFile,
    stages: Mapping[str, str],
) -> Manifest:
    """The manifest of the finished shards."""
    splits: dict[Any, dict[str, SourceRows]] = {split: {} for split in SPLITS}
    for (split, source), entries in streams(encoded, sources).items():
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
        dtype=dtype,
        packing=config.mode,
        tokenizer=tokenizer,
        special_tokens=special,
        stages=dict(stages),
        splits=splits,
    )
