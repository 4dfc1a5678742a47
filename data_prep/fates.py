"""What became of one record: read from the finished stages, in their order.

A fate is a JSON object. ``outcome`` is bad, skipped, dropped, kept or pending (the next stage,
``pending``, is not finished); what else it has depends on how far the record came.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.compute as pc

from data_prep.dataset.manifest import SPLITS, Split
from data_prep.dedup import (
    candidates,
    clean,
    decontaminate,
    signatures,
    verdict_counts,
    verdicts,
)
from data_prep.dedup.contamination import contaminated_by
from data_prep.dedup.origins import Origins, Twin
from data_prep.dedup.removed_lines import REMOVED_SUFFIX
from data_prep.documents.files import DocumentFile, Documents, document_ids, read_table
from data_prep.documents.lookup import FoundRecord
from data_prep.history import History
from data_prep.packing import layout, order, order_keys, rows, streams
from data_prep.packing.location import (
    Place,
    place_by_key,
    place_in_source,
    places_in_mixed,
    ranges_of,
    rows_of,
)
from data_prep.preparation import Preparation
from data_prep.report.accounts import CONTAMINATED, EXACT, NEAR
from data_prep.tokenization import encode

Fate = dict[str, Any]
OVER_MAX_TOKENS = "beyond max_tokens of its source"


def fate_of(history: History, found: FoundRecord) -> Fate:
    """What became of a record."""
    fate, row = _origin(found), found.row
    if row["state"] != "kept":
        fate["outcome"] = row["state"]
        fate["reason"] = row["reason"]
        if row["state"] == "dropped":
            fate["stage"] = "ingest"
        fate |= {key: _rounded(row[key]) for key in ("value", "limit") if row[key] is not None}
        fate |= {"detail": row["detail"]} if row["detail"] else {}
        return fate
    document = _Document(history, found)
    for step in (_cleaned, _deduplicated, _decontaminated, _packed):
        if not step(document, fate):
            return fate
    return fate


def _origin(found: FoundRecord) -> Fate:
    """Where a record was read, and its id."""
    part, row = found.part, found.row
    file = part.part.spans[row["span"]].file
    fate: Fate = {
        "source": part.part.source,
        "file": file.path,
        "offset": row["offset"],
        "id": row["id"] or f"{file.name}:{row['offset']}",
    }
    if found.kept_number is not None:
        name, number = _file_and_number(found)
        fate["id"] = document_ids(part.folder / f"{name}.parquet", [number])[number]
    if row["state"] in ("bad", "skipped"):
        fate["id"] = None
    if row["member"] is not None:
        fate["member"] = row["member"]
    if row["num_bytes"] is not None:
        fate["bytes"] = row["num_bytes"]
    return fate


def _file_and_number(found: FoundRecord) -> tuple[str, int]:
    """The file of documents of a kept document, and its number there."""
    assert found.kept_number is not None
    for name, first, documents in found.part.pieces():
        if first <= found.kept_number < first + documents:
            return name, found.kept_number - first
    raise IndexError(found.kept_number)


class _Document:
    """A document on its way through the stages."""

    def __init__(self, history: History, found: FoundRecord) -> None:
        self.history, self.run = history, history.run
        self.name, self.number = _file_and_number(found)
        """Its file of documents, and its number there."""

    @property
    def file(self) -> DocumentFile:
        """Its file, after the repeated lines were removed."""
        return _file_named(self.run.documents, self.name)

    def is_pending(self, stage: Any, fate: Fate) -> bool:
        """Whether `stage`, which the run is to have, is not finished; if so, the fate says it."""
        if self.run.has(stage):
            return False
        fate |= {"outcome": "pending", "pending": self.history.pending}
        if self.history.problem:
            fate["problem"] = self.history.problem
        return True


def _file_named(documents: Documents, name: str) -> DocumentFile:
    return next(file for file in documents.files if file.name == name)


def _cleaned(document: _Document, fate: Fate) -> bool:
    """Whether a document is left after repeated lines were removed."""
    config = document.run.config
    if config.dedup.lines is None:
        return True
    if document.is_pending(clean.CleanStage, fate):
        return False
    folder = document.run.result(clean.CleanStage).folder
    table = read_table(folder / f"{document.name}{REMOVED_SUFFIX}")
    mine = table.filter(pc.equal(table["document"], document.number)).to_pylist()
    if mine:
        fate["removed_lines"], fate["removed_bytes"] = mine[0]["lines"], mine[0]["bytes"]
        if mine[0]["dropped"]:
            fate |= {"outcome": "dropped", "stage": "clean", "reason": clean.ONLY_REPEATED}
            fate |= {"value": mine[0]["words"]}
            fate["limit"] = max(config.filters_of(fate["source"]).min_words, 1)
            return False
    before = pc.and_(table["dropped"], pc.less(table["document"], document.number))
    document.number -= pc.sum(before).as_py() or 0
    return True


def _deduplicated(document: _Document, fate: Fate) -> bool:
    """Whether a document is not a duplicate of another one."""
    run = document.run
    if document.is_pending(verdicts.VerdictsStage, fate):
        return False
    number = document.file.first + document.number
    code = int(run.deduplicated.codes(document.file)[document.number])
    if code == verdict_counts.KEEP:
        return True
    origins = Origins(
        run.result(signatures.SignaturesStage),
        run.result(candidates.FirstPairsStage),
        run.result(verdicts.VerdictsStage),
        run.config.dedup,
    )
    is_exact = code == verdict_counts.EXACT
    fate |= {"outcome": "dropped", "stage": "verdicts", "reason": EXACT if is_exact else NEAR}
    for key, twin in (origins.of_exact if is_exact else origins.of_near)(number):
        fate[key] = _twin(run, twin)
    return False


def _twin(run: Preparation, twin: Twin) -> Fate:
    """The id and source of another document, and how similar it is."""
    for file in run.documents.files:
        if file.first <= twin.number < file.first + file.num_documents:
            number = twin.number - file.first
            name = document_ids(run.documents.path(file.name), [number])[number]
            similar = {} if twin.similarity is None else {"similarity": _rounded(twin.similarity)}
            return {"id": name, "source": file.source, **similar}
    raise IndexError(twin.number)


def _decontaminated(document: _Document, fate: Fate) -> bool:
    """Whether a document does not overlap evaluation texts."""
    run = document.run
    if run.config.decontaminate is None:
        return True
    if document.is_pending(decontaminate.OverlapStage, fate):
        return False
    if run.selection.kept(document.file)[document.number]:
        return True
    fate |= {"outcome": "dropped", "stage": "overlap", "reason": CONTAMINATED}
    rules = run.config.decontaminate
    fate["contaminated_by"] = contaminated_by(
        run.result(decontaminate.ExcludedNgramsStage),
        run.result(decontaminate.OverlapStage),
        run.deduplicated,
        document.file,
        document.number,
        rules,
        run.config.heldout_share,
    )
    fate["limit"] = rules.max_share
    return False


def _packed(document: _Document, fate: Fate) -> bool:
    """Says in which rows a kept document stands."""
    run, file, number = document.run, document.file, document.number
    selection = run.deduplicated
    heldout = selection.heldout(file, run.config.heldout_share)
    fate["split"] = split = SPLITS[int(heldout[number])]
    if document.is_pending(encode.EncodeStage, fate):
        return False
    of_split = run.selection.kept(file) & (heldout if heldout[number] else ~heldout)
    in_file = int(of_split[:number].sum())
    before = _documents_before(run, file, split)
    try:
        place = place_in_source(run.source_streams, split, file.source, before + in_file)
    except IndexError:
        fate["outcome"], fate["reason"], fate["stage"] = "dropped", OVER_MAX_TOKENS, "layout"
        return False
    fate["tokens"] = place.length
    places = [place]
    if run.config.pack.mixed:
        if document.is_pending(streams.InterleaveStage, fate):
            return False
        interleaved = run.result(streams.InterleaveStage)
        places = places_in_mixed(run.streams, interleaved, split, place)
    if run.config.pack.order_field is not None:
        if document.is_pending(order.OrderStage, fate):
            return False
        keys = run.result(order_keys.OrderKeysStage).folder / f"{file.name}.{split}.keys.npy"
        key = np.load(keys, mmap_mode="r")[in_file]
        places = [place_by_key(run.streams, run.result(order.OrderStage), split, place, key)]
    if document.is_pending(layout.LayoutStage, fate):
        return False
    laid_out = run.result(layout.LayoutStage)
    found = {n for p in places for n in rows_of(run.config.pack, laid_out, split, p)}
    numbers = sorted(found)
    place = places[0] if places else place
    fate["rows_of"], fate["rows"] = place.source, ranges_of(numbers)
    if document.is_pending(rows.RowsStage, fate):
        return False
    fate["outcome"] = "kept"
    fate["shards"] = list(_shards(run, split, place, numbers))
    return True


def _documents_before(run: Preparation, file: DocumentFile, split: Split) -> int:
    """The documents of a split in the files of the same source before `file`."""
    before = 0
    for part, record in run.result(encode.EncodeStage).with_records():
        if part.name == file.name:
            return before
        before += record[f"{split}_documents"] if part.source == file.source else 0
    raise KeyError(file.name)


def _shards(
    run: Preparation, split: Split, place: Place, numbers: list[int]
) -> Iterator[dict[str, Any]]:
    """The shards of rows, with the numbers of the rows in each."""
    for part in run.result(rows.RowsStage).parts:
        if (part.split, part.source) == (split, place.source):
            inside = [
                n - part.first for n in numbers if part.first <= n < part.first + part.num_rows
            ]
            if inside:
                yield {"shard": f"shards/{part.name}.tar", "rows": ranges_of(inside)}


def _rounded(value: float) -> float:
    """A measured number in as many digits as a 32-bit float has."""
    return float(f"{value:.7g}")
