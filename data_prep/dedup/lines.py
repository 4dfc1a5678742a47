"""Lines or paragraphs that many documents of a source repeat: counted, then removed.

Five stages: the lines of each file with their documents; those of many files merged to few, see
`line_runs`; the lines of each source that are repeated too often, a part for each range of hashes;
these as one table; the documents without them, see `clean`. Lines are equal when their words are.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dataset.atomic import save_array
from data_prep.dedup.config import LineDedupConfig
from data_prep.dedup.hash_ranges import HashRangePart, hash_range_parts
from data_prep.dedup.hash_table import write_hash_table
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.line_runs import LineRunPart
from data_prep.dedup.sorted_files import SortedFiles
from data_prep.documents.files import (
    DocumentFile,
    Documents,
    read_texts,
)
from data_prep.engine.stage import Part, PartOutput, Reads, Stage, StageResult
from data_prep.text.batch import I64, U64, TextBatch


@dataclass(frozen=True, kw_only=True)
class LineCountsStage(Stage[DocumentFile]):
    """Hashes the lines of all documents, with the number of their documents and the first one."""

    name = "line_counts"
    version = 2
    output = "arrays"
    less_memory = "; or lower part_mb with --restart-from ingest"

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
    layout = batch.layout
    starts, ends, _ = layout.lines if unit == "line" else layout.paragraphs
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
    lines: Mapping[str, tuple[Path, Sequence[str]]]
    """Files of the hashes of lines, by source: their folder and names."""
    contents: Mapping[str, str]
    """A hash of these files, by source."""
    limits: DedupLimits

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"max_documents": self.max_documents}

    def inputs_for(self, part: HashRangePart) -> Mapping[str, str]:
        return {part.source: self.contents[part.source]}

    def reads_of(self, part: HashRangePart) -> Reads:
        return Reads(len(self.lines[part.source][1]), part.num_bytes)

    def run_part(self, folder: Path, part: HashRangePart) -> PartOutput:
        """Writes PART.repeats.npy [2, lines]: hash (ascending), first document."""
        files = SortedFiles(*self.lines[part.source], self.limits)
        slices = [files.slice(k, part.number, part.num_ranges) for k in range(len(files))]
        hashes, counts, first = np.concatenate(slices, axis=1)
        unique, inverse = np.unique(hashes, return_inverse=True)
        documents = np.bincount(inverse, counts, minlength=len(unique))
        earliest = np.full(len(unique), np.iinfo(np.uint64).max, dtype=np.uint64)
        np.minimum.at(earliest, inverse, first)
        often = documents > self.max_documents
        save_array(folder / f"{part.name}.repeats.npy", np.stack([unique[often], earliest[often]]))
        return PartOutput({"repeated_lines": int(often.sum())}, [f"{part.name}.repeats.npy"])


def line_repeats_stage(
    counted: StageResult[DocumentFile],
    merged: StageResult[LineRunPart],
    config: LineDedupConfig,
    limits: DedupLimits,
) -> LineRepeatsStage:
    """A part for each source and range of hashes."""
    num_lines: Counter[str] = Counter()
    files: dict[str, tuple[Path, list[str]]] = {}
    of_runs: dict[str, tuple[Path, list[str]]] = {}
    for part, record in counted.with_records():
        num_lines[part.source] += record["lines"]
        files.setdefault(part.source, (counted.folder, []))[1].append(f"{part.name}.lines.npy")
    for run in merged.parts:
        of_runs.setdefault(run.source, (merged.folder, []))[1].append(f"{run.name}.lines.npy")
    files |= of_runs
    return LineRepeatsStage(
        parts=hash_range_parts(num_lines, limits.join_lines, bytes_each=24),
        inputs={"lines": counted.content_fingerprint},
        max_documents=config.max_documents,
        lines=files,
        contents=counted.contents(lambda part: part.source),
        limits=limits,
    )


@dataclass(frozen=True, kw_only=True)
class LineTablePart(Part):
    """The repeated lines of a source."""

    num_lines: int
    files: Sequence[Path]
    """Files of the repeated lines, by ascending hash."""

    @property
    def num_files(self) -> int:
        return len(self.files)

    def plan(self) -> dict[str, Any]:
        return {"lines": self.num_lines}


@dataclass(frozen=True, kw_only=True)
class LineTableStage(Stage[LineTablePart]):
    """Joins the repeated lines of each source to a table of hashes."""

    name = "line_table"
    version = 2
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
