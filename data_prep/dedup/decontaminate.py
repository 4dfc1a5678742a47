"""Finds and drops training documents that share word n-grams with evaluation texts.

Three stages: the n-grams of the evaluation texts and of the held-out documents; all of them as one
table; the training documents that have more of them than allowed.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from configs.load import fingerprint
from data_prep.dataset.atomic import save_array
from data_prep.dedup.config import DecontaminateConfig
from data_prep.dedup.evaluation import (
    HELDOUT,
    EvaluationPart,
    HeldoutPart,
    check_has_texts,
    evaluation_parts,
    evaluation_texts,
    excluded_of,
)
from data_prep.dedup.exclusion_table import (
    NGRAMS_SUFFIX,
    SHORT_SUFFIX,
    ExcludedFiles,
    ExclusionTable,
    write_exclusion_table,
)
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.overlap_files import OVERLAP_SUFFIX, TEXTS_SUFFIX, SharedCounts, TextNames
from data_prep.dedup.selection import Flags, Selection
from data_prep.dedup.signatures import file_runs
from data_prep.documents.files import DocumentFile, read_texts
from data_prep.engine.stage import Part, PartOutput, Reads, Record, Stage, StageResult
from data_prep.readers.document import BadRecordPolicy, BadRecords
from data_prep.text.batch import TextBatch

logger = logging.getLogger(__name__)

FLAGS_SUFFIX, NGRAM_TEXTS_SUFFIX = ".overlap.npy", ".ngram_texts.npy"


@dataclass(frozen=True, kw_only=True)
class ExcludedNgramsStage(Stage[EvaluationPart | HeldoutPart]):
    """Hashes the word n-grams of the evaluation texts and of the held-out documents."""

    name = "excluded_ngrams"
    version = 3
    output = "arrays, names of the evaluation texts (Parquet)"

    rules: DecontaminateConfig
    heldout_share: float
    on_bad_record: BadRecordPolicy
    selection: Selection

    @property
    def settings(self) -> Mapping[str, Any]:
        rules = self.rules.model_dump(mode="json", exclude={"evaluation", "fields", "max_share"})
        return {"rules": rules, "heldout_share": self.heldout_share}

    @property
    def own_inputs(self) -> Mapping[str, str]:
        return {key: value for key, value in self.inputs.items() if key != "verdicts"}

    def inputs_for(self, part: EvaluationPart | HeldoutPart) -> Mapping[str, str]:
        if isinstance(part, EvaluationPart):
            return {}  # the part's plan names its file
        return {file.name: fingerprint(self.selection.inputs_for(file)) for file in part.files}

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
        """Writes PART.ngrams.npy [N], PART.ngram_texts.npy [N] and PART.short.npy [4, S], see
        `evaluation.Excluded`, and PART.texts (id, text) of an evaluation file.

        Raises UserError for an evaluation file without any text.
        """
        bad = BadRecords(self.on_bad_record)
        names = TextNames()
        if isinstance(part, EvaluationPart):
            batches = (names.add(*batch) for batch in evaluation_texts(part, bad))
            excluded = excluded_of(batches, self.rules)
            check_has_texts(part, excluded.counts, bad)
        else:
            excluded = excluded_of(self._heldout_texts(part), self.rules)
        files: dict[str, npt.NDArray[Any]] = {
            NGRAMS_SUFFIX: excluded.ngrams,
            NGRAM_TEXTS_SUFFIX: excluded.ngram_texts,
            SHORT_SUFFIX: excluded.short,
        }
        for suffix, array in files.items():
            save_array(folder / f"{part.name}{suffix}", array)
        names.write(folder / f"{part.name}{TEXTS_SUFFIX}")
        record = {
            **excluded.counts,
            "ngrams": len(excluded.ngrams),
            "short": excluded.short.shape[1],
            "bad": dict(sorted(bad.counts.items())),
        }
        return PartOutput(record, [f"{part.name}{suffix}" for suffix in [*files, TEXTS_SUFFIX]])

    def _heldout_texts(self, part: HeldoutPart) -> Iterator[list[bytes]]:
        for file in part.files:
            flags = heldout_documents(self.selection, file, self.heldout_share)
            yield from self.selection.chosen_texts(file, flags)


def heldout_documents(selection: Selection, file: DocumentFile, share: float) -> Flags:
    """Whether each document of a file is kept and held out: [D]."""
    return selection.heldout(file, share) & selection.kept(file)


def excluded_ngrams_stage(
    rules: DecontaminateConfig,
    selection: Selection,
    heldout_share: float,
    on_bad_record: BadRecordPolicy,
    limits: DedupLimits,
) -> ExcludedNgramsStage:
    """A part for each evaluation file and, for their held-out documents, each run of files of
    documents: the next stage reads a file of each part for every range of hashes."""
    parts: list[EvaluationPart | HeldoutPart] = []
    inputs = {"verdicts": selection.fingerprint}
    for file, part in evaluation_parts(rules):
        inputs[f"{part.set_name}/{file.name}"] = f"{file.num_bytes} bytes"
        parts.append(part)
    if rules.heldout:
        parts += [
            HeldoutPart(name=f"heldout-{run.name}", num_bytes=run.num_bytes, files=run.files)
            for run in file_runs(selection.files, limits.signature_parts)
        ]
    return ExcludedNgramsStage(
        parts=parts,
        inputs=inputs,
        rules=rules,
        heldout_share=heldout_share,
        on_bad_record=on_bad_record,
        selection=selection,
    )


def warn_of_unusable_texts(
    excluded: StageResult[EvaluationPart | HeldoutPart], rules: DecontaminateConfig
) -> None:
    """Logs a warning for each evaluation set of which most texts are too short to look for, or
    records cannot be read."""
    for name in rules.evaluation:
        records = [record for part, record in excluded.with_records() if part.set_name == name]
        texts, too_short = (sum(r[key] for r in records) for key in ("texts", "too_short"))
        if 2 * too_short > texts:
            logger.warning(
                "evaluation set %r: %d of %d texts have fewer than %d words and are not looked for",
                *(name, too_short, texts, rules.min_text_words),
            )
        bad = sum(sum(record["bad"].values()) for record in records)
        if bad:
            logger.warning("evaluation set %r: %d records cannot be read", name, bad)


def set_names(rules: DecontaminateConfig) -> list[str]:
    """The names of the evaluation sets, in the order of their numbers."""
    return [*rules.evaluation, *([HELDOUT] if rules.heldout else [])]


@dataclass(frozen=True, kw_only=True)
class ExclusionStage(Stage[Part]):
    """Joins these n-grams to one table of hashes."""

    name = "exclusion"
    version = 3
    output = "hash tables"

    ngrams: Path
    """Folder of the n-grams."""
    files: Sequence[ExcludedFiles]
    num_hashes: int
    """In all files."""
    limits: DedupLimits

    def reads_of(self, part: Part) -> Reads:
        return Reads(2 * len(self.files), 3 * part.num_bytes)  # and temporary files of twice that

    def run_part(self, folder: Path, part: Part) -> PartOutput:
        """Writes the table PART, one range of hashes after another."""
        length, combinations, names = write_exclusion_table(
            folder, part.name, self.ngrams, self.files, self.num_hashes, self.limits
        )
        return PartOutput({"ngrams": length, "combinations": combinations}, names)


def exclusion_stage(
    rules: DecontaminateConfig,
    excluded: StageResult[EvaluationPart | HeldoutPart],
    limits: DedupLimits,
) -> ExclusionStage:
    """A single part."""
    num_hashes = excluded.total("ngrams") + excluded.total("short")
    names = set_names(rules)
    files = [
        ExcludedFiles(
            f"{part.name}{NGRAMS_SUFFIX}",
            f"{part.name}{SHORT_SUFFIX}",
            names.index(part.set_name),
        )
        for part in excluded.parts
    ]
    return ExclusionStage(
        parts=[Part(name="exclusion", num_bytes=8 * num_hashes)],
        inputs={"ngrams": excluded.content_fingerprint},
        ngrams=excluded.folder,
        files=files,
        num_hashes=num_hashes,
        limits=limits,
    )


@dataclass(frozen=True, kw_only=True)
class OverlapStage(Stage[DocumentFile]):
    """Finds the training documents of which too many n-grams are in the table."""

    name = "overlap"
    version = 3
    output = "a flag per document; the sets that dropped ones overlap (Parquet)"

    rules: DecontaminateConfig
    heldout_share: float
    selection: Selection
    table_folder: Path
    table_name: str
    table_content: str
    """A hash of the table."""
    combinations: Sequence[Sequence[int]]
    """The evaluation sets of each value of the table."""

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "ngram_words": self.rules.ngram_words,
            "min_text_words": self.rules.min_text_words,
            "max_share": self.rules.max_share,
            "heldout_share": self.heldout_share,
            "sets": set_names(self.rules),
        }

    def inputs_for(self, part: DocumentFile) -> Mapping[str, str]:
        return {**self.selection.inputs_for(part), "table": self.table_content}

    def run_part(self, folder: Path, part: DocumentFile) -> PartOutput:
        """Writes PART.overlap.npy [D]: whether each document is dropped; and PART.sets, see
        `overlap_files`."""
        rules = self.rules
        excluded = ExclusionTable(
            self.table_folder, self.table_name, rules.ngram_words, rules.min_text_words
        )
        trained = self.selection.kept(part)
        trained &= ~self.selection.heldout(part, self.heldout_share)
        dropped = np.zeros(len(trained), dtype=bool)
        dropped_bytes = 0
        shared = SharedCounts(set_names(rules), self.combinations)
        for at, texts in read_texts(self.selection.path(part), trained):
            batch = TextBatch(texts)
            window = slice(at, at + len(texts))
            matches = excluded.matches(batch).of_texts(trained[window])
            share = matches.counts() / np.maximum(matches.totals, 1)
            dropped[window] = share > rules.max_share
            dropped_bytes += int(batch.lengths[dropped[window]].sum())
            shared.add(matches, at, dropped[window])
        save_array(folder / f"{part.name}{FLAGS_SUFFIX}", dropped)
        shared.write(folder / f"{part.name}{OVERLAP_SUFFIX}")
        counts = {
            "documents": int(dropped.sum()),
            "bytes": dropped_bytes,
            "found": shared.found,
        }
        return PartOutput(counts, [f"{part.name}{s}" for s in (FLAGS_SUFFIX, OVERLAP_SUFFIX)])


def overlap_stage(
    rules: DecontaminateConfig,
    selection: Selection,
    heldout_share: float,
    exclusion: StageResult[Part],
) -> OverlapStage:
    """A part for each file of documents."""
    contents = exclusion.contents(lambda part: part.name)
    combinations = exclusion.records[0]["combinations"]
    return OverlapStage(
        parts=selection.files,
        inputs={"exclusion": exclusion.content_fingerprint, "verdicts": selection.fingerprint},
        rules=rules,
        heldout_share=heldout_share,
        selection=selection,
        table_folder=exclusion.folder,
        table_name=exclusion.parts[0].name,
        table_content=fingerprint([contents[exclusion.parts[0].name], combinations]),
        combinations=combinations,
    )
