"""Lines or paragraphs that many documents of a source repeat: counted, then taken out.

Four stages: the lines of each part with their documents; the lines of each source that are
repeated too often, a range of hashes a part; these as one table; the documents without them. Equal
words make equal lines.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.config import DataConfig
from data_prep.dataset.atomic import save_array
from data_prep.dedup.config import LineDedupConfig
from data_prep.dedup.hash_table import HashTable, in_range, parts_by_range, write_hash_table
from data_prep.documents.files import documents_file, read_documents, read_texts, write_documents
from data_prep.engine.stages import Part, Record, Stage, StageResult, source_of
from data_prep.text.batch import I64, U64, TextBatch
from data_prep.text.normalise import SEPARATOR, plain_white_space

COUNTS, REPEATED, TABLE, CLEAN = "line_counts", "line_repeats", "line_table", "clean"
ONLY_REPEATED = "only repeated lines"
_LINES_A_JOIN = 16_000_000


def counts_stage(documents: StageResult, config: LineDedupConfig) -> Stage:
    """Part for part of the documents: hashes of lines, in how many documents, and the first."""
    return Stage(
        COUNTS,
        1,
        {"unit": config.unit, "min_words": config.min_words},
        {"ingest": documents.content_fingerprint},
        _parts_of(documents),
        counts_part,
        {"documents": str(documents.folder), "first": _first_numbers(documents)},
    )


def _first_numbers(documents: StageResult) -> dict[str, int]:
    """The number of each part's first document."""
    counts = [record["documents"] for record in documents.records]
    names = [part.name for part in documents.parts]
    return dict(zip(names, np.cumsum([0, *counts]).tolist(), strict=False))


def _parts_of(documents: StageResult) -> list[Part]:
    pairs = zip(documents.parts, documents.records, strict=True)
    return [Part(part.name, {}, record["bytes"]) for part, record in pairs]


def counts_part(
    folder: Path, part: Part, settings: Mapping[str, Any]
) -> tuple[Record, Sequence[str]]:
    """Writes PART.lines.npy [3, lines]: hash (ascending), documents, first document."""
    document = settings["first"][part.name]
    hashes, numbers = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for _, texts in read_texts(Path(settings["documents"]) / f"{part.name}.parquet"):
        batch = TextBatch(texts)
        found, _, _, text = lines_of(batch, settings["unit"], settings["min_words"])
        hashes.append(found)
        numbers.append(text + document)
        document += len(texts)
    lines = _count(np.concatenate(hashes), np.concatenate(numbers))
    save_array(folder / f"{part.name}.lines.npy", lines)
    return {"lines": lines.shape[1]}, [f"{part.name}.lines.npy"]


def lines_of(batch: TextBatch, unit: str, min_words: int) -> tuple[U64, I64, I64, I64]:
    """(hash, start, end, text) of the lines, or paragraphs, of at least `min_words` words."""
    starts, ends = batch.line_bounds if unit == "line" else batch.paragraph_bounds
    hashes, words = batch.unit_hashes(starts)
    long = np.flatnonzero(words >= max(min_words, 1))
    starts, ends = starts[long], ends[long]
    return hashes[long], starts, ends, batch.text_of(starts)


def _count(hashes: U64, documents: I64) -> U64:
    """[3, lines]: each hash once, in how many of `documents` it occurs, the first of them."""
    order = np.lexsort((documents, hashes))
    hashes, documents = hashes[order], documents[order]
    again = (hashes[1:] == hashes[:-1]) & (documents[1:] == documents[:-1])
    once = np.append(True, ~again)[: len(hashes)]
    hashes, documents = hashes[once], documents[once]
    begins = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)])
    counts = np.diff(np.append(begins, len(hashes)))
    return np.stack([hashes[begins], counts.astype(np.uint64), documents[begins].astype(np.uint64)])


def repeats_stage(counted: StageResult, config: LineDedupConfig) -> Stage:
    """A part a source and range of hashes: the lines that are repeated too often."""
    lines: Counter[str] = Counter()
    for part, record in zip(counted.parts, counted.records, strict=True):
        lines[source_of(part.name)] += record["lines"]
    parts = parts_by_range(lines, _LINES_A_JOIN, 24)
    return Stage(
        REPEATED,
        1,
        {"max_documents": config.max_documents},
        {"lines": counted.content_fingerprint},
        parts,
        repeats_part,
        {"lines": _files_by_source(counted, "lines")},
    )


def _files_by_source(result: StageResult, kind: str) -> dict[str, list[str]]:
    files: dict[str, list[str]] = {}
    for part in result.parts:
        source = source_of(part.name)
        files.setdefault(source, []).append(str(result.folder / f"{part.name}.{kind}.npy"))
    return files


def repeats_part(
    folder: Path, part: Part, settings: Mapping[str, Any]
) -> tuple[Record, Sequence[str]]:
    """Writes PART.repeats.npy [2, lines]: hash (ascending), first document."""
    source, number, ranges = (part.arguments[key] for key in ("source", "range", "ranges"))
    found = [np.empty((3, 0), np.uint64)]
    for path in settings["lines"][source]:
        lines = np.load(path, mmap_mode="r")
        found.append(np.array(lines[:, in_range(lines[0], number, ranges)]))
    hashes, counts, first = np.concatenate(found, axis=1)
    unique, inverse = np.unique(hashes, return_inverse=True)
    documents = np.bincount(inverse, counts, minlength=len(unique))
    earliest = np.full(len(unique), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(earliest, inverse, first)
    often = documents > settings["max_documents"]
    save_array(folder / f"{part.name}.repeats.npy", np.stack([unique[often], earliest[often]]))
    return {"repeated_lines": int(often.sum())}, [f"{part.name}.repeats.npy"]


def table_stage(repeated: StageResult) -> Stage:
    """A part a source: its repeated lines as a table of hashes."""
    files = _files_by_source(repeated, "repeats")
    lines: Counter[str] = Counter()
    for part, record in zip(repeated.parts, repeated.records, strict=True):
        lines[source_of(part.name)] += record["repeated_lines"]
    return Stage(
        TABLE,
        1,
        {},
        {"repeats": repeated.content_fingerprint},
        [Part(source, {"lines": lines[source]}, 16 * lines[source]) for source in files],
        table_part,
        {"files": files},
    )


def table_part(
    folder: Path, part: Part, settings: Mapping[str, Any]
) -> tuple[Record, Sequence[str]]:
    """Writes the table SOURCE: the repeated lines with the first document of each."""
    pieces = (np.load(path) for path in settings["files"][part.name])
    _, names = write_hash_table(folder, part.name, pieces, 2, part.arguments["lines"])
    return {}, names


def clean_stage(
    config: DataConfig, rules: LineDedupConfig, documents: StageResult, table: StageResult
) -> Stage:
    """Part for part: the documents without the repeated lines."""
    min_words = {
        name: (source.filters or config.filters).min_words
        for name, source in config.sources.items()
    }
    return Stage(
        CLEAN,
        2,
        {"rules": rules.model_dump(mode="json"), "min_words": min_words},
        {"ingest": documents.content_fingerprint, "table": table.content_fingerprint},
        _parts_of(documents),
        clean_part,
        {
            "documents": str(documents.folder),
            "table": str(table.folder),
            "first": _first_numbers(documents),
        },
    )


def clean_part(
    folder: Path, part: Part, settings: Mapping[str, Any]
) -> tuple[Record, Sequence[str]]:
    """Writes PART.parquet like the first stage's; a document that becomes too short is dropped."""
    source = source_of(part.name)
    rules = LineDedupConfig.model_validate(settings["rules"])
    repeats = HashTable(Path(settings["table"]), source)
    document = settings["first"][part.name]
    tally: Counter[str] = Counter(documents=0, bytes=0, removed_lines=0, removed_bytes=0)
    dropped = dropped_bytes = 0
    name = f"{part.name}.parquet"
    with documents_file(folder / name) as writer:
        for texts, ids in read_documents(Path(settings["documents"]) / name):
            batch = TextBatch(texts)
            starts, ends = _to_remove(batch, rules, repeats, document)
            document += len(texts)
            cleaned = _without_lines(batch, starts, ends)
            words = TextBatch(cleaned).word_counts
            keep = (words >= settings["min_words"][source]) & (words > 0)
            kept = np.flatnonzero(keep).tolist()
            write_documents(writer, [cleaned[k] for k in kept], [ids[k] for k in kept])
            tally["documents"] += len(kept)
            tally["bytes"] += sum(len(cleaned[k]) for k in kept)
            tally["removed_lines"] += len(starts)
            tally["removed_bytes"] += int((ends - starts).sum())
            dropped += len(texts) - len(kept)
            dropped_bytes += sum(len(cleaned[k]) for k in np.flatnonzero(~keep).tolist())
    record = {
        "source": source,
        "name": part.name,
        **tally,
        "dropped": {ONLY_REPEATED: dropped} if dropped else {},
        "dropped_bytes": {ONLY_REPEATED: dropped_bytes} if dropped else {},
    }
    return record, [name]


def _to_remove(
    batch: TextBatch, rules: LineDedupConfig, repeats: HashTable, first_document: int
) -> tuple[I64, I64]:
    """(start, end) of the lines to take out of a batch."""
    hashes, starts, ends, text = lines_of(batch, rules.unit, rules.min_words)
    goes, place = repeats.find(hashes)
    if rules.keep_first:
        assert repeats.values is not None
        goes = goes[repeats.values[place] != (text[goes] + first_document).astype(np.uint64)]
    return starts[goes], ends[goes]


def _without_lines(batch: TextBatch, starts: I64, ends: I64) -> list[bytes]:
    if not len(starts):
        return list(batch.texts)
    change = np.zeros(len(batch.data) + 1, dtype=np.int32)
    change[starts] += 1
    change[ends] -= 1
    keep = np.cumsum(change[:-1]) == 0
    last = int(batch.ends[-1])
    joined = plain_white_space(batch.data[1:last][keep[1:last]].tobytes())
    return [text.strip(b" \n") for text in joined.split(SEPARATOR)]
