"""The account of each source: what was read, kept, and dropped under which reason, in documents and
bytes. The terminal's table, report.html and report.json all show it.

Documents and bytes of text add up: read = kept + all that was dropped. Bad and skipped records gave
no document, so they are not part of that sum; their bytes, and those not read, are of the files.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.dataset.manifest import SPLITS
from data_prep.dedup.hash_ranges import HashRangePart
from data_prep.dedup.signatures import FileRun
from data_prep.dedup.verdict_counts import counts_by_source
from data_prep.documents.files import DocumentFile
from data_prep.documents.ingest import IngestPart
from data_prep.documents.losses import losses_of
from data_prep.engine.stage import Record, StageResult

Amount = dict[str, int]
"""``documents`` and ``bytes``."""
Account = dict[str, Any]
"""Of one source: see `accounts`."""
EXACT, NEAR, CONTAMINATED = "exact duplicate", "near duplicate", "overlaps evaluation text"
REMOVED_LINES = "removed lines"
UNKNOWN = "not accounted for"


def accounts(
    sources: Sequence[str],
    *,
    ingested: StageResult[IngestPart],
    repeated_ids: StageResult[HashRangePart],
    cleaned: StageResult[DocumentFile] | None,
    verdicts: StageResult[FileRun],
    overlap: StageResult[DocumentFile] | None,
    encoded: StageResult[DocumentFile],
    left_out: Mapping[str, tuple[int, int]],
    order_keys: StageResult[DocumentFile] | None = None,
) -> dict[str, Account]:
    """For each source: ``read``, ``kept`` and ``dropped`` by reason (amounts), ``bad`` and
    ``skipped`` by reason (amounts of records), ``file_bytes``, ``not_read_bytes``,
    ``missing_bytes`` (an estimate; None if it is not known), ``cut_files``, ``likely_encoding``
    (of bad records; None if there is nothing to go by), ``repeated_ids``,
    ``without_tokens`` (documents, which are kept), ``unknown_tokens``, and ``beyond_max_tokens``
    (kept documents, and tokens, that are in no row, from `left_out`); with `order_keys` also
    ``without_order_key`` (kept documents without the field of `pack.order_by`)."""
    losses = losses_of(ingested)
    without_tokens = _documents_without_tokens(encoded)
    duplicates_of = counts_by_source(verdicts, sources)
    result = {}
    for source in sources:
        of_ingest = _records(source, ingested)
        of_clean = _records(source, cleaned)
        of_encode = _records(source, encoded)
        of_overlap = _records(source, overlap)
        dropped = _dropped(of_ingest, of_clean, duplicates_of[source], of_overlap)
        read = _total(of_ingest, "documents_read", "bytes_read")
        kept = _amount(
            sum(r[f"{split}_documents"] for r in of_encode for split in SPLITS),
            sum(r["bytes"] for r in of_encode),
        )
        rest = {key: read[key] - kept[key] - _sum(dropped, key) for key in read}
        if any(rest.values()):
            dropped[UNKNOWN] = rest
        lost = losses[source]
        missing = lost.missing_bytes.values()
        result[source] = {
            "read": read,
            "kept": kept,
            "dropped": dropped,
            "bad": _by_reason(of_ingest, "bad"),
            "skipped": _by_reason(of_ingest, "skipped"),
            "file_bytes": sum(lost.file_bytes.values()),
            "not_read_bytes": lost.not_read_bytes.total(),
            "cut_files": len(lost.cut_files),
            "likely_encoding": lost.likely_encoding,
            "missing_bytes": None if None in missing else sum(size or 0 for size in missing),
            "repeated_ids": sum(r["repeated"] for r in _records(source, repeated_ids)),
            "without_tokens": without_tokens.get(source, 0),
            "beyond_max_tokens": dict(
                zip(("documents", "tokens"), left_out.get(source, (0, 0)), strict=True)
            ),
            # Records of version 0.1.0 lack it.
            "unknown_tokens": sum(r.get("unknown_tokens", 0) for r in of_encode),
        }
        if order_keys is not None:
            of_keys = _records(source, order_keys)
            result[source]["without_order_key"] = sum(r["without_key"] for r in of_keys)
    return result


def _dropped(
    of_ingest: Sequence[Record],
    of_clean: Sequence[Record],
    duplicates: Mapping[str, int],
    of_overlap: Sequence[Record],
) -> dict[str, Amount]:
    """By reason, what the stages dropped of a source; `duplicates` are counts of its verdicts."""
    dropped = _by_reason([*of_ingest, *of_clean], "dropped")
    later = {
        REMOVED_LINES: _amount(0, sum(r["removed_bytes"] for r in of_clean)),
        EXACT: _amount(duplicates["exact_documents"], duplicates["exact_bytes"]),
        NEAR: _amount(duplicates["near_documents"], duplicates["near_bytes"]),
        CONTAMINATED: _total(of_overlap, "documents", "bytes"),
    }
    return dropped | {reason: amount for reason, amount in later.items() if any(amount.values())}


def _records(source: str, result: StageResult[Any] | None) -> list[Record]:
    """The records of a source's parts; none where the run has no such stage."""
    if result is None:
        return []
    return [record for part, record in result.with_records() if part.source == source]


def _documents_without_tokens(encoded: StageResult[DocumentFile]) -> dict[str, int]:
    """Documents of each source that the tokenizer gives no token: they are in no row."""
    found: dict[str, int] = {}
    for part, record in encoded.with_records():
        empty = record.get("without_tokens")
        if empty is None:  # a record of an older version
            paths = [encoded.folder / f"{part.name}.{split}.lengths.npy" for split in SPLITS]
            empty = sum(int((np.load(path) == 0).sum()) for path in paths)
        found[part.source] = found.get(part.source, 0) + empty
    return found


def _amount(documents: int, num_bytes: int) -> Amount:
    return {"documents": documents, "bytes": num_bytes}


def _total(records: Iterable[Record], documents: str, num_bytes: str) -> Amount:
    records = list(records)
    return _amount(sum(r[documents] for r in records), sum(r[num_bytes] for r in records))


def _sum(amounts: Mapping[str, Amount], key: str) -> int:
    return sum(amount[key] for amount in amounts.values())


def _by_reason(records: Iterable[Record], key: str) -> dict[str, Amount]:
    """Amounts by reason, the most frequent first. Records of older versions lack sizes."""
    found: dict[str, Amount] = {}
    for record in records:
        sizes = record.get(f"{key}_bytes", {})
        for reason, count in record.get(key, {}).items():
            amount = found.setdefault(reason, _amount(0, 0))
            amount["documents"] += count
            amount["bytes"] += sizes.get(reason, 0)
    return dict(sorted(found.items(), key=lambda item: -item[1]["documents"]))
