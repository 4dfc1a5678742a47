"""The stage that removes the lines that many documents of a source repeat, see `lines`."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.dedup.config import LineDedupConfig
from data_prep.dedup.hash_table import HashTable
from data_prep.dedup.lines import LineTablePart, lines_of
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
    write_documents,
)
from data_prep.engine.stage import PartOutput, Record, Stage, StageResult
from data_prep.text.batch import I64, TextBatch

ONLY_REPEATED = "only repeated lines"


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

    def settings_group(self, part: DocumentFile) -> str:
        return part.source

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
        repeats = HashTable(self.tables, [part.source])
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
    remove, first = repeats.find(hashes)
    if rules.keep_first:
        numbers = (text[remove] + first_document).astype(np.uint64)
        remove = remove[first != numbers]
    return starts[remove], ends[remove], text[remove]
