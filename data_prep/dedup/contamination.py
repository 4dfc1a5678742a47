"""Which evaluation texts a dropped document overlaps."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dedup.decontaminate import EvaluationPart, HeldoutPart
from data_prep.dedup.selection import Selection
from data_prep.documents.files import DocumentFile
from data_prep.engine.stage import StageResult
from data_prep.text.batch import TextBatch

HELDOUT = "held-out documents"


def contaminated_by(
    excluded: StageResult[EvaluationPart | HeldoutPart],
    selection: Selection,
    file: DocumentFile,
    number: int,
    ngram_words: int,
) -> list[dict[str, Any]]:
    """Each evaluation set with the n-grams that it shares with document `number` of a file, and
    their share of the n-grams of the document; the largest first."""
    wanted = np.arange(file.num_documents) == number
    (text,) = [text for texts in selection.chosen_texts(file, wanted) for text in texts]
    hashes, _, _ = TextBatch([text]).word_ngrams(ngram_words)
    found: dict[str, set[int]] = {}
    for part, path in zip(excluded.parts, excluded.files(".ngrams.npy"), strict=True):
        name = HELDOUT if isinstance(part, HeldoutPart) else _name_of(part)
        found.setdefault(name, set()).update(_shared(path, hashes))
    shares = Counter({name: len(places) for name, places in found.items() if places})
    return [
        {"set": name, "ngrams": count, "share": round(count / max(len(hashes), 1), 6)}
        for name, count in shares.most_common()
    ]


def _name_of(part: EvaluationPart) -> str:
    """The name of the evaluation set, from the name of the part: evaluation-NAME-NUMBER."""
    return part.name.removeprefix("evaluation-").rpartition("-")[0]


def _shared(path: Path, hashes: Sequence[int] | Any) -> list[int]:
    """The numbers of the n-grams of a document that a file of n-grams holds."""
    ngrams = np.load(path, mmap_mode="r")
    if not len(ngrams):
        return []
    places = np.minimum(np.searchsorted(ngrams, hashes), len(ngrams) - 1)
    numbers: list[int] = np.flatnonzero(ngrams[places] == hashes).tolist()
    return numbers
