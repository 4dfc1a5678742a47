"""What decontamination looked for and found, for each evaluation set."""

from collections.abc import Iterator, Mapping

from configs.terminal import visible_name
from data_prep.dedup.evaluation import EvaluationPart, HeldoutPart
from data_prep.documents.files import DocumentFile
from data_prep.engine.stage import StageResult

COLUMNS = {
    "texts": "texts",
    "ngrams": "n-grams",
    "short_texts": "short",
    "too_short": "too short",
    "bad": "bad",
    "overlapping": "found",
    "dropped": "dropped",
}
"""The counts of a set, and their names in tables."""
_NAME_COLUMNS, _WIDTHS = 25, (10, 13, 10, 11, 9, 11, 11)


def evaluation_sets(
    excluded: StageResult[EvaluationPart | HeldoutPart] | None,
    overlap: StageResult[DocumentFile] | None,
) -> dict[str, dict[str, int]]:
    """The counts of each set: its ``texts``, the ``ngrams`` of each file, ``short_texts``, which
    are matched as a whole, those ``too_short`` to look for, ``bad`` records, and the training
    documents ``overlapping`` it, of which those above `max_share` are ``dropped``."""
    sets: dict[str, dict[str, int]] = {}
    if excluded is None or overlap is None:
        return sets
    for part, record in excluded.with_records():
        counts = sets.setdefault(part.set_name, dict.fromkeys(COLUMNS, 0))
        for key in ("texts", "ngrams", "short_texts", "too_short"):
            counts[key] += record[key]
        counts["bad"] += sum(record["bad"].values())
    for record in overlap.records:
        for name, overlapping, dropped in record["found"]:
            if name in sets:
                sets[name]["overlapping"] += overlapping
                sets[name]["dropped"] += dropped
    return sets


def sets_table(sets: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """The lines of a table for a terminal; none where there are no sets."""
    if not sets:
        return
    titles = (f"{t:>{w}}" for t, w in zip(COLUMNS.values(), _WIDTHS, strict=True))
    yield f"{'evaluation set':<{_NAME_COLUMNS}}{''.join(titles)}"
    for name, counts in sets.items():
        cells = (f"{counts[k]:>{w},}" for k, w in zip(COLUMNS, _WIDTHS, strict=True))
        yield f"{visible_name(name)[: _NAME_COLUMNS - 1]:<{_NAME_COLUMNS}}{''.join(cells)}"
