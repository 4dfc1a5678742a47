"""Finds and drops training documents that share word n-grams with evaluation texts.

Three stages: the n-grams of the evaluation texts and of the held-out documents; all of them as one
table, see `exclusion`; the training documents that have more of them than allowed.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.load import fingerprint
from data_prep.dataset.atomic import save_array
from data_prep.dedup.config import DecontaminateConfig
from data_prep.dedup.evaluation import (
    EvaluationPart,
    HeldoutPart,
    check_has_texts,
    evaluation_parts,
    evaluation_texts,
    excluded_of,
    set_names,
)
from data_prep.dedup.exclusion import exclusion_files
from data_prep.dedup.exclusion_table import ExclusionFiles, ExclusionTable
from data_prep.dedup.hash_ranges import HashRangePart
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.overlap_files import OVERLAP_SUFFIX, TEXTS_SUFFIX, SharedCounts, TextNames
from data_prep.dedup.selection import Flags, Selection
from data_prep.dedup.signatures import file_runs
from data_prep.documents.files import DocumentFile, read_texts
from data_prep.engine.stage import PartOutput, Reads, Record, Stage, StageResult
from data_prep.readers.document import BadRecordPolicy, BadRecords
from data_prep.text.batch import TextBatch

logger = logging.getLogger(__name__)

FLAGS_SUFFIX = ".overlap.npy"


@dataclass(frozen=True, kw_only=True)
class ExcludedNgramsStage(Stage[EvaluationPart | HeldoutPart]):
    """Hashes the word n-grams of the evaluation texts and of the held-out documents."""

    name = "excluded_ngrams"
    version = 4
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
        """Writes PART.ngrams.npy [N], PART.ngram_texts.npy [N], PART.short.npy [3, S] and
        PART.prefixes.npy [P], see `evaluation.Excluded`, and PART.texts (id, text) of an evaluation
        file.

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
        files = excluded.write(folder, part.name)
        names.write(folder / f"{part.name}{TEXTS_SUFFIX}")
        record = {**excluded.counts, "bad": dict(sorted(bad.counts.items()))}
        return PartOutput(record, [*files, f"{part.name}{TEXTS_SUFFIX}"])

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


@dataclass(frozen=True, kw_only=True)
class OverlapStage(Stage[DocumentFile]):
    """Finds the training documents of which too many n-grams are in the table."""

    name = "overlap"
    version = 3
    output = "a flag per document; the sets that dropped ones overlap (Parquet)"

    rules: DecontaminateConfig
    heldout_share: float
    selection: Selection
    excluded: ExclusionFiles
    excluded_content: str
    """A hash of it."""

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
        return {**self.selection.inputs_for(part), "table": self.excluded_content}

    def reads_of(self, part: DocumentFile) -> Reads:
        return Reads(1 + self.excluded.num_files, part.num_bytes)

    def run_part(self, folder: Path, part: DocumentFile) -> PartOutput:
        """Writes PART.overlap.npy [D]: whether each document is dropped; and PART.sets, see
        `overlap_files`."""
        rules = self.rules
        excluded = ExclusionTable(self.excluded, rules.ngram_words, rules.min_text_words)
        trained = self.selection.kept(part)
        trained &= ~self.selection.heldout(part, self.heldout_share)
        dropped = np.zeros(len(trained), dtype=bool)
        dropped_bytes = 0
        shared = SharedCounts(set_names(rules), self.excluded.combinations)
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
    exclusion: StageResult[HashRangePart],
) -> OverlapStage:
    """A part for each file of documents."""
    excluded = exclusion_files(exclusion)
    contents = exclusion.contents(lambda part: part.source)
    return OverlapStage(
        parts=selection.files,
        inputs={"exclusion": exclusion.content_fingerprint, "verdicts": selection.fingerprint},
        rules=rules,
        heldout_share=heldout_share,
        selection=selection,
        excluded=excluded,
        excluded_content=fingerprint([contents, excluded.combinations, excluded.lengths]),
    )
