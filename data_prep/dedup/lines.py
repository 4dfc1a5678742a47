"""Lines or paragraphs that many documents of a source repeat: counted, then removed.

Four stages: the lines of each file with their documents; the lines of each source that are repeated
too often, a part for each range of hashes; these as one table; the documents without them. Lines
are equal when their words are.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.dataset.atomic import save_array
from data_prep.dedup.config import LineDedupConfig
from data_prep.dedup.hash_ranges import HashRangePart, hash_range_parts, in_range
from data_prep.dedup.hash_table import HashTable, write_hash_table
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.removed_lines import (
    REMOVED_SUFFIX,
    removed_rows,
    without_lines,
    write_removed,
)
from data_prep.documents.files import (
    DocumentFile,
    Documents,
    documents_file,
    documents_in,
    has_metadata,
    read_documents,
    read_texts,
    write_documents,
)
from data_prep.engine.stage import Part, PartOutput, Record, Stage, StageResult
from data_prep.text.batch import I64, U64, TextBatch

ONLY_REPEATED = "only repeated lines"


@dataclass(frozen=True, kw_only=True)
class LineCountsStage(Stage[DocumentFile]):
    """Hashes the lines of all documents, with the number of their documents and the first one."""

    name = "line_counts"
    version = 2
    output = "arrays"

    documents: Path
    """Folder of the documents' files."""
    unit: str
    min_words: int

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"unit": self.unit, "min_words": self.min_words}

    def inputs_for(self, part: DocumentFile) -> Mapping[str, str]:
        return {"documents": part.content, "first": str(part.first)}

    def run_part(self, folder: Path, part: DocumentFile) -> PartOutput:
        """Writes PART.lines.npy [3, lines]: hash (ascending), documents, first document."""
        document = part.first
        hashes, numbers = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for _, texts in read_texts(self.documents / f"{part.name}.parquet"):
            found, _, _, text = lines_of(TextBatch(texts), self.unit, self.min_words)
            hashes.append(found)
            numbers.append(text + document)
            document += len(texts)
        lines = _count(np.concatenate(hashes), np.concatenate(numbers))
        save_array(folder / f"{part.name}.lines.npy", lines)
        return PartOutput({"lines": lines.shape[1]}, [f"{part.name}.lines.npy"])


def line_counts_stage(documents: Documents, config: LineDedupConfig) -> LineCountsStage:
    """A part for each file of documents."""
    return LineCountsStage(
        parts=documents.files,
        inputs={"ingest": documents.content_fingerprint},
        documents=documents.folder,
        unit=config.unit,
        min_words=config.min_words,
    )


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
    starts = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)])
    counts = np.diff(np.append(starts, len(hashes)))
    return np.stack([hashes[starts], counts.astype(np.uint64), documents[starts].astype(np.uint64)])


@dataclass(frozen=True, kw_only=True)
class LineRepeatsStage(Stage[HashRangePart]):
    """Finds the lines of each source that too many documents have."""

    name = "line_repeats"
    version = 1
    output = "arrays"

    max_documents: int
    lines: Mapping[str, Sequence[Path]]
    """Files of the hashes of lines, by source."""
    contents: Mapping[str, str]
    """A hash of these files, by source."""

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"max_documents": self.max_documents}

    def inputs_for(self, part: HashRangePart) -> Mapping[str, str]:
        return {part.source: self.contents[part.source]}

    def run_part(self, folder: Path, part: HashRangePart) -> PartOutput:
        """Writes PART.repeats.npy [2, lines]: hash (ascending), first document."""
        found = [np.empty((3, 0), np.uint64)]
        for path in self.lines[part.source]:
            lines = np.load(path, mmap_mode="r")
            found.append(np.array(lines[:, in_range(lines[0], part.number, part.num_ranges)]))
        hashes, counts, first = np.concatenate(found, axis=1)
        unique, inverse = np.unique(hashes, return_inverse=True)
        documents = np.bincount(inverse, counts, minlength=len(unique))
        earliest = np.full(len(unique), np.iinfo(np.uint64).max, dtype=np.uint64)
        np.minimum.at(earliest, inverse, first)
        often = documents > self.max_documents
        save_array(folder / f"{part.name}.repeats.npy", np.stack([unique[often], earliest[often]]))
        return PartOutput({"repeated_lines": int(often.sum())}, [f"{part.name}.repeats.npy"])


def line_repeats_stage(
    counted: StageResult[DocumentFile], config: LineDedupConfig, limits: DedupLimits
) -> LineRepeatsStage:
    """A part for each source and range of hashes."""
    num_lines: Counter[str] = Counter()
    files: dict[str, list[Path]] = {}
    for (part, record), path in zip(
        counted.with_records(), counted.files(".lines.npy"), strict=True
    ):
        num_lines[part.source] += record["lines"]
        files.setdefault(part.source, []).append(path)
    return LineRepeatsStage(
        parts=hash_range_parts(num_lines, limits.join_lines, bytes_each=24),
        inputs={"lines": counted.content_fingerprint},
        max_documents=config.max_documents,
        lines=files,
        contents=counted.contents(lambda part: part.source),
    )


@dataclass(frozen=True, kw_only=True)
class LineTablePart(Part):
    """The repeated lines of a source."""

    num_lines: int
    files: Sequence[Path]
    """Files of the repeated lines, by ascending hash."""

    def plan(self) -> dict[str, Any]:
        return {"lines": self.num_lines}


@dataclass(frozen=True, kw_only=True)
class LineTableStage(Stage[LineTablePart]):
    """Joins the repeated lines of each source to a table of hashes."""

    name = "line_table"
    version = 1
    output = "hash tables"

    contents: Mapping[str, str]
    """A hash of the repeated lines, by source."""

    def inputs_for(self, part: LineTablePart) -> Mapping[str, str]:
        return {part.name: self.contents[part.name]}

    def run_part(self, folder: Path, part: LineTablePart) -> PartOutput:
        """Writes the table PART: the repeated lines with the first document of each."""
        pieces = (np.load(path) for path in part.files)
        _, names = write_hash_table(folder, part.name, pieces, 2, part.num_lines)
        return PartOutput({}, names)


def line_table_stage(repeated: StageResult[HashRangePart]) -> LineTableStage:
    """A part for each source, of its name."""
    num_lines: Counter[str] = Counter()
    files: dict[str, list[Path]] = {}
    for (part, record), path in zip(
        repeated.with_records(), repeated.files(".repeats.npy"), strict=True
    ):
        num_lines[part.source] += record["repeated_lines"]
        files.setdefault(part.source, []).append(path)
    parts = [
        LineTablePart(
            name=source, num_bytes=16 * num_lines[source], num_lines=num_lines[source], files=paths
        )
        for source, paths in files.items()
    ]
    return LineTableStage(
        parts=parts,
        inputs={"repeats": repeated.content_fingerprint},
        contents=repeated.contents(lambda part: part.source),
    )


@dataclass(frozen=True, kw_only=True)
class CleanStage(Stage[DocumentFile]):
    """Removes the repeated lines, and the documents that become too short."""

    name = "clean"
    version = 4
    output = "documents, and what was removed of them (Parquet)"
    source_settings = frozenset({"min_words"})

    rules: LineDedupConfig
    min_words: Mapping[str, int]
    """Words that a document needs, by source."""
    keep_whitespace: frozenset[str]
    """Sources whose texts keep their white space."""
    documents: Path
    """Folder of the documents' files."""
    tables: Path
    """Folder of the tables of repeated lines."""
    table_contents: Mapping[str, str]
    """A hash of each source's table."""

    @property
    def settings(self) -> Mapping[str, Any]:
        of_sources = {name: self._of_source(name) for name in self.min_words}
        return {"rules": self.rules.model_dump(mode="json"), "min_words": of_sources}

    def settings_for(self, part: DocumentFile) -> Mapping[str, Any]:
        return {**self.settings, "min_words": self._of_source(part.source)}

    def _of_source(self, source: str) -> Any:
        min_words = self.min_words[source]
        return [min_words, "keep whitespace"] if source in self.keep_whitespace else min_words

    def inputs_for(self, part: DocumentFile) -> Mapping[str, str]:
        table = self.table_contents[part.source]
        return {"documents": part.content, "first": str(part.first), "table": table}

    def run_part(self, folder: Path, part: DocumentFile) -> PartOutput:
        """Writes PART.parquet like the first stage, and PART.removed: the documents with removed
        lines (Parquet)."""
        repeats = HashTable(self.tables, part.source)
        number = 0
        tally: Counter[str] = Counter(documents=0, bytes=0, removed_lines=0, removed_bytes=0)
        dropped = dropped_bytes = 0
        name = f"{part.name}.parquet"
        changes: list[pa.Table] = []
        source = self.documents / name
        keeps_whitespace = part.source in self.keep_whitespace
        with documents_file(folder / name, has_metadata(source)) as writer:
            for documents in read_documents(source):
                texts = documents.texts
                batch = TextBatch(texts)
                starts, ends, of = _to_remove(batch, self.rules, repeats, part.first + number)
                cleaned = without_lines(batch, starts, ends, keeps_whitespace)
                words = TextBatch(cleaned).word_counts
                keep = (words >= self.min_words[part.source]) & (words > 0)
                kept = np.flatnonzero(keep).tolist()
                write_documents(writer, documents.only(kept, cleaned))
                lengths = np.array([len(text) for text in cleaned], dtype=np.int64)
                changes.append(removed_rows(number, batch, of, lengths, words, keep))
                tally["documents"] += len(kept)
                tally["bytes"] += int(lengths[keep].sum())
                tally["removed_lines"] += len(starts)
                tally["removed_bytes"] += int((batch.lengths - lengths).sum())
                dropped += len(texts) - len(kept)
                dropped_bytes += int(lengths[~keep].sum())
                number += len(texts)
        removed = f"{part.name}{REMOVED_SUFFIX}"
        write_removed(folder / removed, changes)
        record: Record = {
            "source": part.source,
            "name": part.name,
            **tally,
            "dropped": {ONLY_REPEATED: dropped} if dropped else {},
            "dropped_bytes": {ONLY_REPEATED: dropped_bytes} if dropped else {},
        }
        return PartOutput(record, [name, removed])


def clean_stage(
    documents: Documents,
    tables: StageResult[LineTablePart],
    rules: LineDedupConfig,
    min_words: Mapping[str, int],
    keep_whitespace: Iterable[str] = (),
) -> CleanStage:
    """A part for each file of documents; `min_words` are the words a document needs, by source, and
    `keep_whitespace` the sources whose texts keep their white space."""
    return CleanStage(
        parts=documents.files,
        inputs={"ingest": documents.content_fingerprint, "table": tables.content_fingerprint},
        rules=rules,
        min_words=min_words,
        keep_whitespace=frozenset(keep_whitespace),
        documents=documents.folder,
        tables=tables.folder,
        table_contents=tables.contents(lambda part: part.name),
    )


def cleaned_documents(cleaned: StageResult[DocumentFile]) -> Documents:
    """The documents without the repeated lines."""
    return documents_in(CleanStage.name, cleaned, cleaned.records)


def _to_remove(
    batch: TextBatch, rules: LineDedupConfig, repeats: HashTable, first_document: int
) -> tuple[I64, I64, I64]:
    """(start, end, text) of the lines to remove from a batch."""
    hashes, starts, ends, text = lines_of(batch, rules.unit, rules.min_words)
    remove, place = repeats.find(hashes)
    if rules.keep_first:
        assert repeats.values is not None
        numbers = (text[remove] + first_document).astype(np.uint64)
        remove = remove[repeats.values[place] != numbers]
    return starts[remove], ends[remove], text[remove]
