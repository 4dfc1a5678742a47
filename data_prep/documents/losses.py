"""What the filters took of each source: an error where nothing is left, a warning where much is."""

import logging
from collections import Counter

from configs.load import UserError
from data_prep.documents.ingest import IngestPart
from data_prep.engine.stage import StageResult

logger = logging.getLogger(__name__)
_SHOWN_REASONS = 3
_LARGE_SHARE = 0.5


def check_losses(ingested: StageResult[IngestPart]) -> None:
    """UserError that names the filters when they dropped all documents of a source; logs a warning
    for a source of which they dropped more than half."""
    read: Counter[str] = Counter()
    dropped: dict[str, Counter[str]] = {}
    for part, record in ingested.with_records():
        read[part.source] += record["documents_read"]
        dropped.setdefault(part.source, Counter()).update(record["dropped"])
    problems = []
    for source, reasons in dropped.items():
        total, lost = read[source], reasons.total()
        if lost <= _LARGE_SHARE * total:
            continue
        message = (
            f"source {source!r}: the filters dropped {lost:,} of {total:,} documents "
            f"({lost / total:.1%}): {_shown(reasons)}"
        )
        if lost == total:
            problems.append(message)
        else:
            logger.warning("%s", message)
    if problems:
        raise UserError(
            "\n".join(problems) + f"\nexamples are in {ingested.folder}/*.dropped.jsonl; change "
            "the source's filters, or set filters.document_language"
        )


def _shown(reasons: Counter[str]) -> str:
    """The most frequent reasons with their counts."""
    shown = [f"{reason} ({count:,})" for reason, count in reasons.most_common(_SHOWN_REASONS)]
    return ", ".join(shown) + (", ..." if len(reasons) > _SHOWN_REASONS else "")
