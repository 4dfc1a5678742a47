"""Finds and drops training documents that share word n-grams with evaluation texts.

Three stages: the n-grams of the evaluation texts and of the held-out documents; all of them as one
table; the training documents that have more of them than allowed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.load import fingerprint
from data_prep.dataset.atomic import save_array
from data_prep.dedup.config import DecontaminateConfig
from data_prep.dedup.hash_ranges import in_range
from data_prep.dedup.hash_table import HashTable, write_hash_table
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.selection import Selection
from data_prep.documents.files import DocumentFile, read_texts
from data_prep.engine.stage import Part, PartOutput, Record, Stage, StageResult
from data_prep.readers import ReaderConfig
from data_prep.readers.document import BadRecordPolicy, BadRecords, in_batches
from data_prep.readers.files import Span, list_files
from data_prep.text.batch import U64, TextBatch
from data_prep.text.normalise import normalise


@dataclass(frozen=True, kw_only=True)
class EvaluationPart(Part):
    """A file of evaluation texts."""

    reader: ReaderConfig
    spans: Sequence[Span]

    def plan(self) -> dict[str, Any]:
        return {
            "reader": self.reader.model_dump(mode="json"),
            "spans": [[*astuple(span.file), span.start, span.end] for span in self.spans],
        }


@dataclass(frozen=True, kw_only=True)
class HeldoutPart(Part):
    """The held-out documents of a file of documents."""

    file: DocumentFile

    def plan(self) -> dict[str, Any]:
        return {"part": self.file.name}


@dataclass(frozen=True, kw_only=True)
class ExcludedNgramsStage(Stage[EvaluationPart | HeldoutPart]):
    """Hashes the word n-grams of the evaluation texts and of the held-out documents."""

    name = "excluded_ngrams"
    version = 2
    output = "arrays"

    rules: DecontaminateConfig
    heldout_share: float
    on_bad_record: BadRecordPolicy
    selection: Selection

    @property
    def settings(self) -> Mapping[str, Any]:
        rules = self.rules.model_dump(mode="json", exclude={"evaluation", "max_share"})
        return {"rules": rules, "heldout_share": self.heldout_share}

    @property
    def own_inputs(self) -> Mapping[str, str]:
        return {key: value for key, value in self.inputs.items() if key != "verdicts"}

    def inputs_for(self, part: EvaluationPart | HeldoutPart) -> Mapping[str, str]:
        if isinstance(part, EvaluationPart):
            return {}  # the part's plan names its file
        return self.selection.inputs_for(part.file)

    def result_fingerprint(self, records: Sequence[Record]) -> str:
        """The plan knows the evaluation files by their sizes; what they hold is added here."""
        hashes = [
            entry["xxh3_128"]
            for part, record in zip(self.parts, records, strict=True)
            if isinstance(part, EvaluationPart)
            for entry in record["outputs"].values()
        ]
        return fingerprint([self.content_fingerprint, hashes])

    def run_part(self, folder: Path, part: EvaluationPart | HeldoutPart) -> PartOutput:
        """Writes PART.ngrams.npy [n]: hashes of word n-grams, ascending."""
        bad = BadRecords(self.on_bad_record)
        if isinstance(part, EvaluationPart):
            batches = _evaluation_texts(part, bad)
        else:
            heldout = self.selection.heldout(part.file, self.heldout_share)
            heldout &= self.selection.kept(part.file)
            batches = self.selection.chosen_texts(part.file, heldout)
        words = self.rules.ngram_words
        found = [TextBatch(texts).word_ngrams(words)[0] for texts in batches if texts]
        ngrams = np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *found]))
        save_array(folder / f"{part.name}.ngrams.npy", ngrams)
        record = {"ngrams": len(ngrams), "bad": dict(sorted(bad.counts.items()))}
        return PartOutput(record, [f"{part.name}.ngrams.npy"])


def excluded_ngrams_stage(
    rules: DecontaminateConfig,
    selection: Selection,
    heldout_share: float,
    on_bad_record: BadRecordPolicy,
) -> ExcludedNgramsStage:
    """A part for each evaluation file and, for their held-out documents, each file of documents."""
    parts: list[EvaluationPart | HeldoutPart] = []
    inputs = {"verdicts": selection.fingerprint}
    for name, reader in rules.evaluation.items():
        files = list_files(reader.files, f"decontaminate.evaluation.{name}.files")
        for number, file in enumerate(files):
            inputs[f"{name}/{file.name}"] = f"{file.num_bytes} bytes"
            parts.append(
                EvaluationPart(
                    name=f"evaluation-{name}-{number:06d}",
                    num_bytes=file.num_bytes,
                    reader=reader,
                    spans=reader.build().spans(file, 1 << 62),
                )
            )
    if rules.heldout:
        parts += [HeldoutPart(name=f"heldout-{file.name}", file=file) for file in selection.files]
    return ExcludedNgramsStage(
        parts=parts,
        inputs=inputs,
        rules=rules,
        heldout_share=heldout_share,
        on_bad_record=on_bad_record,
        selection=selection,
    )


def _evaluation_texts(part: EvaluationPart, bad: BadRecords) -> Iterator[list[bytes]]:
    reader = part.reader.build()
    for span in part.spans:
        for batch in in_batches(reader.read(span, bad)):
            yield normalise([document.text for document in batch])


@dataclass(frozen=True, kw_only=True)
class ExclusionStage(Stage[Part]):
    """Joins these n-grams to one table of hashes."""

    name = "exclusion"
    version = 2
    output = "a hash table"

    files: Sequence[Path]
    """Files of hashes of n-grams."""
    num_ngrams: int
    """In all files."""
    limits: DedupLimits

    def run_part(self, folder: Path, part: Part) -> PartOutput:
        """Writes the table PART, one range of hashes after another."""
        num_ranges = -(-self.num_ngrams // self.limits.table_ngrams) or 1

        def ngrams_of(number: int) -> U64:
            found = [np.empty(0, np.uint64)]
            for path in self.files:
                ngrams = np.load(path, mmap_mode="r")
                found.append(np.array(ngrams[in_range(ngrams, number, num_ranges)]))
            return np.unique(np.concatenate(found))[None]

        pieces = (ngrams_of(number) for number in range(num_ranges))
        length, names = write_hash_table(folder, part.name, pieces, 1, self.num_ngrams)
        return PartOutput({"ngrams": length}, names)


def exclusion_stage(
    excluded: StageResult[EvaluationPart | HeldoutPart], limits: DedupLimits
) -> ExclusionStage:
    """A single part."""
    num_ngrams = excluded.total("ngrams")
    return ExclusionStage(
        parts=[Part(name="exclusion", num_bytes=8 * num_ngrams)],
        inputs={"ngrams": excluded.content_fingerprint},
        files=excluded.files(".ngrams.npy"),
        num_ngrams=num_ngrams,
        limits=limits,
    )


@dataclass(frozen=True, kw_only=True)
class OverlapStage(Stage[DocumentFile]):
    """Finds the training documents of which too many n-grams are in the table."""

    name = "overlap"
    version = 2
    output = "a flag per document"

    rules: DecontaminateConfig
    heldout_share: float
    selection: Selection
    table_folder: Path
    table_name: str
    table_content: str
    """A hash of the table."""

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "ngram_words": self.rules.ngram_words,
            "max_share": self.rules.max_share,
            "heldout_share": self.heldout_share,
        }

    def inputs_for(self, part: DocumentFile) -> Mapping[str, str]:
        return {**self.selection.inputs_for(part), "table": self.table_content}

    def run_part(self, folder: Path, part: DocumentFile) -> PartOutput:
        """Writes PART.overlap.npy [D]: whether each document is dropped."""
        excluded = HashTable(self.table_folder, self.table_name)
        trained = self.selection.kept(part)
        trained &= ~self.selection.heldout(part, self.heldout_share)
        dropped = np.zeros(len(trained), dtype=bool)
        dropped_bytes = 0
        for at, texts in read_texts(self.selection.path(part), trained):
            batch = TextBatch(texts)
            hashes, first, _ = batch.word_ngrams(self.rules.ngram_words)
            text = batch.token_text[first]
            found, _ = excluded.find(hashes)
            total = np.bincount(text, minlength=len(texts))
            share = np.bincount(text[found], minlength=len(texts)) / np.maximum(total, 1)
            window = slice(at, at + len(texts))
            dropped[window] = trained[window] & (share > self.rules.max_share)
            dropped_bytes += int(batch.lengths[dropped[window]].sum())
        save_array(folder / f"{part.name}.overlap.npy", dropped)
        counts = {"documents": int(dropped.sum()), "bytes": dropped_bytes}
        return PartOutput(counts, [f"{part.name}.overlap.npy"])


def overlap_stage(
    rules: DecontaminateConfig,
    selection: Selection,
    heldout_share: float,
    exclusion: StageResult[Part],
) -> OverlapStage:
    """A part for each file of documents."""
    return OverlapStage(
        parts=selection.files,
        inputs={"exclusion": exclusion.content_fingerprint, "verdicts": selection.fingerprint},
        rules=rules,
        heldout_share=heldout_share,
        selection=selection,
        table_folder=exclusion.folder,
        table_name=exclusion.parts[0].name,
        table_content=exclusion.contents(lambda part: part.name)[exclusion.parts[0].name],
    )
