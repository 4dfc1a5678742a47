"""Evaluation texts, and what decontamination looks for of them: word n-grams and whole short texts.

A text of `ngram_words` or more is looked for by its n-grams; a shorter one as a whole, as a run of
words at word boundaries, from `min_text_words` on. What is shorter still occurs everywhere ("yes",
"New York"): it is counted as too short to look for.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from configs.load import UserError
from configs.terminal import visible_name
from data_prep.dataset.atomic import save_array
from data_prep.dedup.config import DecontaminateConfig
from data_prep.documents.files import DocumentFile
from data_prep.engine.stage import Part
from data_prep.readers import ReaderConfig
from data_prep.readers.document import BadRecords, Document, in_batches
from data_prep.readers.fields import texts_in
from data_prep.readers.files import SourceFile, Span, list_files
from data_prep.readers.reader import RecordsConfig
from data_prep.text.batch import U64, TextBatch
from data_prep.text.normalise import normalise

HELDOUT = "held-out documents"
"""The evaluation set of the run's own held-out documents."""
NGRAMS_SUFFIX, NGRAM_TEXTS_SUFFIX = ".ngrams.npy", ".ngram_texts.npy"
SHORT_SUFFIX, PREFIXES_SUFFIX = ".short.npy", ".prefixes.npy"
Numbers = npt.NDArray[np.uint32]


@dataclass(frozen=True, kw_only=True)
class EvaluationPart(Part):
    """A file of evaluation texts; one field of it, if fields are named."""

    set_name: str
    reader: ReaderConfig
    spans: Sequence[Span]

    def plan(self) -> dict[str, Any]:
        return {
            "reader": self.reader.model_dump(mode="json", exclude={"files"}),
            "spans": [[*astuple(span.file), span.start, span.end] for span in self.spans],
        }


@dataclass(frozen=True, kw_only=True)
class HeldoutPart(Part):
    """The held-out documents of consecutive files of documents."""

    set_name: str = HELDOUT
    files: Sequence[DocumentFile]

    @property
    def num_files(self) -> int:
        return len(self.files)

    def plan(self) -> dict[str, Any]:
        return {"files": [file.name for file in self.files]}


def set_names(rules: DecontaminateConfig) -> list[str]:
    """The names of the evaluation sets, in the order of their numbers."""
    return [*rules.evaluation, *([HELDOUT] if rules.heldout else [])]


def readers_of(rules: DecontaminateConfig, name: str) -> list[ReaderConfig]:
    """The readers of an evaluation set: one for each of its fields.

    Raises UserError where fields are named and the reader has none.
    """
    reader = rules.evaluation[name]
    if name not in rules.fields:
        return [_with_values(reader)]
    if not isinstance(reader, RecordsConfig):
        raise UserError(
            f"decontaminate.fields.{name}: the reader of type {reader.type!r} reads no fields"
        )
    return [
        _with_values(reader.model_copy(update={"text_field": field}))
        for field in rules.fields[name]
    ]


def _with_values(reader: ReaderConfig) -> ReaderConfig:
    """The reader, giving the value of the text field as it is too: it may be a list of texts."""
    if not isinstance(reader, RecordsConfig):
        return reader
    return reader.model_copy(update={"metadata_fields": (reader.text_field,)})


def evaluation_parts(
    rules: DecontaminateConfig,
) -> Iterator[tuple[SourceFile, EvaluationPart]]:
    """Each file of the evaluation sets with its part; several parts where fields are named."""
    for name, reader in rules.evaluation.items():
        number = 0
        readers = readers_of(rules, name)
        for file in list_files(reader.files, f"decontaminate.evaluation.{name}.files"):
            for of_field in readers:
                yield (
                    file,
                    EvaluationPart(
                        name=f"evaluation-{name}-{number:06d}",
                        num_bytes=file.num_bytes,
                        set_name=name,
                        reader=of_field,
                        spans=of_field.build().spans(file, 1 << 62),
                    ),
                )
                number += 1


def texts_of(documents: Iterable[Document], reader: ReaderConfig) -> Iterator[Document]:
    """The evaluation texts of documents: each text of a list is one."""
    for document in documents:
        values: Any = None
        if isinstance(reader, RecordsConfig) and document.metadata:
            values = document.metadata.get(reader.text_field)
        texts = texts_in(values) if isinstance(values, list) else None
        if texts is None:
            yield document
        else:
            yield from (document._replace(text=t) for t in texts if isinstance(t, str))


def evaluation_texts(
    part: EvaluationPart, bad: BadRecords
) -> Iterator[tuple[list[bytes], list[str]]]:
    """The texts of a file, normalised, and the ids of their records."""
    reader = part.reader.build()
    for span in part.spans:
        documents = texts_of(reader.read(span, bad), part.reader)
        for batch in in_batches(documents):
            yield normalise([document.text for document in batch]), [d.id for d in batch]


@dataclass
class Excluded:
    """What is looked for, of all texts of a part."""

    ngrams: U64
    """Hashes of the n-grams, ascending: [N]."""
    ngram_texts: Numbers
    """The number of the first text that has each: [N]."""
    short: U64
    """The short texts: hash of the whole (ascending), number of its tokens, number of the first
    text of this hash: [3, S]."""
    prefixes: U64
    """Hashes of the first `min_text_words` tokens of the short texts, ascending: [P]."""
    counts: dict[str, int]
    """``texts`` with words, ``empty`` ones, ``short_texts`` that are looked for as a whole,
    ``too_short`` ones; different ``ngrams``, ``short`` texts and their ``prefixes``."""

    def write(self, folder: Path, name: str) -> list[str]:
        """Writes a file NAME.* of each array; the names of the files."""
        files: dict[str, npt.NDArray[Any]] = {
            NGRAMS_SUFFIX: self.ngrams,
            NGRAM_TEXTS_SUFFIX: self.ngram_texts,
            SHORT_SUFFIX: self.short,
            PREFIXES_SUFFIX: self.prefixes,
        }
        for suffix, array in files.items():
            save_array(folder / f"{name}{suffix}", array)
        return [f"{name}{suffix}" for suffix in files]


def excluded_of(batches: Iterable[Sequence[bytes]], rules: DecontaminateConfig) -> Excluded:
    """What is looked for of normalised texts, which are numbered in their order."""
    hashes, texts = [np.empty(0, np.uint64)], [np.empty(0, np.uint32)]
    short = [np.empty((4, 0), np.uint64)]
    counts = dict.fromkeys(("texts", "empty", "short_texts", "too_short"), 0)
    number = 0
    for batch_texts in batches:
        if not batch_texts:
            continue
        batch = TextBatch(batch_texts)
        found, first, _ = batch.word_ngrams(rules.ngram_words)
        text = batch.token_text[first]
        hashes.append(found)
        texts.append((text + number).astype(np.uint32))
        has_words = batch.token_counts > 0
        without_ngram = has_words & (np.bincount(text, minlength=len(batch_texts)) == 0)
        long_enough = batch.word_counts >= rules.min_text_words
        whole = np.flatnonzero(without_ngram & long_enough)
        short.append(_short_texts(batch, whole, number, rules.min_text_words))
        counts["texts"] += int(has_words.sum())
        counts["empty"] += int((~has_words).sum())
        counts["short_texts"] += len(whole)
        counts["too_short"] += int((without_ngram & ~long_enough).sum())
        number += len(batch_texts)
    ngrams, first = np.unique(np.concatenate(hashes), return_index=True)
    whole_texts, prefixes, *facts = np.concatenate(short, axis=1)
    whole_texts, first_short = np.unique(whole_texts, return_index=True)
    joined = np.stack([whole_texts, *(fact[first_short] for fact in facts)])
    prefixes = np.unique(prefixes)
    sizes = {"ngrams": len(ngrams), "short": len(whole_texts), "prefixes": len(prefixes)}
    return Excluded(ngrams, np.concatenate(texts)[first], joined, prefixes, {**counts, **sizes})


def _short_texts(
    batch: TextBatch, whole: npt.NDArray[np.int64], number: int, min_words: int
) -> U64:
    """Of the texts `whole` [S]: hash, hash of the first `min_words` tokens, number of tokens,
    number of the text: [4, S]."""
    first, end = batch.first_tokens[whole], batch.first_tokens[whole + 1]
    # A token is at most a word, so that a text of `min_words` has as many tokens or more.
    return np.stack(
        [
            batch.range_hashes(first, end),
            batch.range_hashes(first, first + min_words),
            (end - first).astype(np.uint64),
            (whole + number).astype(np.uint64),
        ]
    )


def check_has_texts(part: EvaluationPart, counts: dict[str, int], bad: BadRecords) -> None:
    """Raises UserError, which says why, for a file that gave no text with words."""
    if not counts["texts"]:
        raise UserError(no_texts(part.set_name, part.reader, part.spans[0].file, counts, bad))


def no_texts(
    set_name: str,
    reader: ReaderConfig,
    file: SourceFile,
    counts: dict[str, int],
    bad: BadRecords,
) -> str:
    """Why a file of an evaluation set has no text, and what to do."""
    why = [f"{reason} ({count:,})" for reason, count in bad.counts.most_common()]
    if counts["empty"]:
        why.append(f"texts without words ({counts['empty']:,})")
    why += [f"skipped: {kind} ({count:,})" for kind, count in bad.skipped.most_common()]
    details = [example["detail"] for example in bad.examples[:1] if example["detail"]]
    advice = ""
    if isinstance(reader, RecordsConfig):
        advice = f"; set its text_field, or decontaminate.fields.{set_name}"
    return visible_name(
        f"decontaminate.evaluation.{set_name}: {file.path}: no text to look for: "
        + (", ".join(why) or "no records")
        + "".join(f"; {detail}" for detail in details)
        + advice
    )
