"""Which evaluation sets, and which of their texts, a dropped document overlaps."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dedup.config import DecontaminateConfig
from data_prep.dedup.decontaminate import heldout_documents
from data_prep.dedup.evaluation import (
    NGRAM_TEXTS_SUFFIX,
    NGRAMS_SUFFIX,
    SHORT_SUFFIX,
    EvaluationPart,
    HeldoutPart,
)
from data_prep.dedup.overlap_files import (
    OVERLAP_SUFFIX,
    TEXTS_SUFFIX,
    sets_of_document,
    text_names,
)
from data_prep.dedup.selection import Selection
from data_prep.documents.files import DocumentFile, document_ids, read_texts
from data_prep.engine.stage import StageResult
from data_prep.text.batch import I64, U64, TextBatch

_MOST_TEXTS = 3
Excluded = StageResult[EvaluationPart | HeldoutPart]


def contaminated_by(
    excluded: Excluded,
    overlap: StageResult[DocumentFile],
    selection: Selection,
    file: DocumentFile,
    number: int,
    rules: DecontaminateConfig,
    heldout_share: float,
) -> list[dict[str, Any]]:
    """Each evaluation set that document `number` of a file overlaps: ``set``, ``ngrams`` that they
    share, their ``share`` of the n-grams of the document, and ``texts``, the first texts with most
    of them (id, first bytes, n-grams). The largest first."""
    found = sets_of_document(overlap.folder / f"{file.name}{OVERLAP_SUFFIX}", number)
    wanted = np.arange(file.num_documents) == number
    (text,) = [text for texts in selection.chosen_texts(file, wanted) for text in texts]
    batch = TextBatch([text])
    hashes, _, _ = batch.word_ngrams(rules.ngram_words)
    for entry in found:
        counts: Counter[tuple[int, int]] = Counter()
        for place, part in enumerate(excluded.parts):
            if part.set_name == entry["set"]:
                path = excluded.folder / part.name
                counts.update((place, text) for text in _texts_in(path, batch, hashes))
        entry["texts"] = [
            {**_name_of(excluded, selection, heldout_share, *text), "ngrams": count}
            for text, count in counts.most_common(_MOST_TEXTS)
        ]
    return found


def _texts_in(part: Path, batch: TextBatch, hashes: U64) -> Iterator[int]:
    """The number of the first text that has each n-gram of a document, and of each short text that
    is in it."""
    places = _places(np.load(_with(part, NGRAMS_SUFFIX), mmap_mode="r"), hashes)
    yield from np.load(_with(part, NGRAM_TEXTS_SUFFIX), mmap_mode="r")[places].tolist()
    short, lengths, texts = np.load(_with(part, SHORT_SUFFIX))
    for length in np.unique(lengths).tolist():
        runs, _ = batch.token_ngrams(length)
        yield from texts[_places(short, runs)].tolist()


def _with(part: Path, suffix: str) -> Path:
    return part.with_name(part.name + suffix)


def _places(ascending: U64, hashes: U64) -> I64:
    """The place in `ascending` of each of the `hashes` that is there."""
    if not len(ascending):
        return np.empty(0, np.int64)
    places: I64 = np.minimum(np.searchsorted(ascending, hashes), len(ascending) - 1)
    found: I64 = places[ascending[places] == hashes]
    return found


def _name_of(
    excluded: Excluded, selection: Selection, heldout_share: float, place: int, text: int
) -> dict[str, str]:
    """The id and the first bytes of a text of a part."""
    part = excluded.parts[place]
    if isinstance(part, EvaluationPart):
        return text_names(_with(excluded.folder / part.name, TEXTS_SUFFIX))[text]
    for file in part.files:
        heldout = np.flatnonzero(heldout_documents(selection, file, heldout_share))
        if text < len(heldout):
            break
        text -= len(heldout)
    number = int(heldout[text])
    path = selection.path(file)
    name = document_ids(path, [number])[number]
    wanted = np.arange(file.num_documents) == number
    (first,) = [texts[number - at] for at, texts in read_texts(path, wanted)]
    return {"id": name, "text": first[:200].decode("utf-8", "ignore")}
