"""Counts of the verdicts: of a part for its record, and of all parts from their records."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.dedup.signatures import FileRun
from data_prep.engine.stage import StageResult

KEEP, EXACT, NEAR = 0, 1, 2
"""Verdicts on a document: kept, exact or near duplicate of an earlier one."""
_WORDS = ("kept", "exact", "near")
Codes = npt.NDArray[np.uint8]


def source_counts(codes: Codes, lengths: npt.NDArray[Any]) -> dict[str, int]:
    """``kept_documents``, ``kept_bytes`` and so on, of verdicts and lengths of documents [D]."""
    counts = {}
    for code, word in zip((KEEP, EXACT, NEAR), _WORDS, strict=True):
        counts[f"{word}_documents"] = int((codes == code).sum())
        counts[f"{word}_bytes"] = int(lengths[codes == code].sum())
    return counts


def counts_by_source(
    verdicts: StageResult[FileRun], sources: Sequence[str]
) -> dict[str, dict[str, int]]:
    """The `source_counts` of each source."""
    keys = [f"{word}_{unit}" for word in _WORDS for unit in ("documents", "bytes")]
    counts = {source: dict.fromkeys(keys, 0) for source in sources}
    for run, record in verdicts.with_records():
        for key in keys:
            counts[run.source][key] += record[key]
    return counts


def stays_by_goes(verdicts: StageResult[FileRun], sources: Sequence[str]) -> list[list[int]]:
    """Duplicates by the source of the kept document, and by their own."""
    matrix = np.zeros((len(sources), len(sources)), dtype=np.int64)
    for run, record in verdicts.with_records():
        matrix[:, sources.index(run.source)] += record["stays"]
    counts: list[list[int]] = matrix.tolist()
    return counts
