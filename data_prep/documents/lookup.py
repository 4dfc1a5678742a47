"""Finds records in the ledgers of the first stage, by the place in their file or by their id."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.documents import ledger
from data_prep.documents.files import all_ids, read_table
from data_prep.documents.ingest import IngestPart
from data_prep.engine.stage import Record

_COMPARED_IDS, _CLOSE, _EXAMPLES = 20_000, 5, 3


@dataclass(frozen=True)
class FinishedPart:
    """A finished part of the first stage."""

    folder: Path
    part: IngestPart
    record: Record

    @property
    def ledger(self) -> Path:
        """The file of its ledger."""
        return self.folder / f"{self.part.name}{ledger.SUFFIX}"

    def pieces(self) -> Iterator[tuple[str, int, int]]:
        """(name, number of the first document in the part, documents) of each of its files."""
        first = 0
        for piece in self.record["pieces"]:
            yield piece["name"], first, piece["documents"]
            first += piece["documents"]


class FoundRecord(NamedTuple):
    """A row of a ledger."""

    part: FinishedPart
    row: Mapping[str, Any]
    """The row, see `ledger.SCHEMA`."""
    kept_number: int | None
    """Its number among the kept documents of the part; None if it is not one of them."""


class _Wanted(NamedTuple):
    """What is looked for in a part."""

    places: dict[tuple[int, int], list[str]]
    """Queries by span and offset."""
    ids: dict[str, list[str]]
    """Queries by id."""


def find(parts: Sequence[FinishedPart], queries: Sequence[str]) -> dict[str, list[FoundRecord]]:
    """The records that each query names: ``FILE:OFFSET``, or an id. A file is named by its path, by
    the path below the searched folder, or by the end of its path; a member of an archive, whose
    records are bad or skipped, as ``FILE!MEMBER``."""
    found: dict[str, list[FoundRecord]] = {query: [] for query in queries}
    for part in parts:
        places: dict[tuple[int, int], list[str]] = {}
        for query in queries:
            for number in spans_named(part, query):
                places.setdefault((number, int(query.rpartition(":")[2])), []).append(query)
        if places:
            _search(part, _Wanted(places, {}), found)
    rest: dict[str, list[str]] = {}
    for query, records in found.items():
        if not records:  # in stored ids, what is not UTF-8 is replaced
            rest.setdefault(query.encode("utf-8", "replace").decode(), []).append(query)
    if rest:
        for part in parts:
            _search(part, _Wanted({}, rest), found)
    return found


def spans_named(part: FinishedPart, query: str) -> list[int]:
    """The numbers of the spans whose file a query ``FILE:OFFSET`` names."""
    name, _, offset = query.rpartition(":")
    name = name.partition("!")[0]
    if not name or not offset.isdecimal():
        return []
    return [
        number
        for number, span in enumerate(part.part.spans)
        if name in (span.file.name, span.file.path) or span.file.path.endswith(f"/{name}")
    ]


def _search(part: FinishedPart, wanted: _Wanted, found: dict[str, list[FoundRecord]]) -> None:
    """Adds what is wanted and in a part to `found`."""
    by_kept_number = dict(_kept_with_ids(part, wanted.ids))
    num_kept = 0
    with pq.ParquetFile(part.ledger) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, use_threads=False)
            kept = pc.equal(table["state"], ledger.STATES[0]).to_numpy(zero_copy_only=False)
            numbers = num_kept + np.cumsum(kept) - 1
            num_kept += int(kept.sum())
            for place, queries in _hits(table, kept, numbers, wanted, by_kept_number):
                row = table.slice(place, 1).to_pylist()[0]
                number = int(numbers[place]) if kept[place] else None
                for query in queries:
                    found[query].append(FoundRecord(part, row, number))


def _hits(
    table: pa.Table,
    kept: npt.NDArray[np.bool_],
    numbers: npt.NDArray[np.int64],
    wanted: _Wanted,
    by_kept_number: Mapping[int, list[str]],
) -> Iterator[tuple[int, list[str]]]:
    """(row, queries) of the rows of a table that are wanted."""
    if wanted.places:
        spans, offsets = table["span"].to_numpy(), table["offset"].to_numpy()
        for (span, offset), queries in wanted.places.items():
            for place in np.flatnonzero((spans == span) & (offsets == offset)).tolist():
                member = table["member"][place].as_py() or ""
                mine = [q for q in queries if q.rpartition(":")[0].partition("!")[2] == member]
                if mine:
                    yield place, mine
    if by_kept_number:
        among = np.isin(numbers, np.fromiter(by_kept_number, np.int64))
        for place in np.flatnonzero(kept & among).tolist():
            yield place, by_kept_number[int(numbers[place])]
    if wanted.ids:
        for place in _places_of(table["id"], wanted.ids):
            yield place, wanted.ids[str(table["id"][place])]


def _kept_with_ids(
    part: FinishedPart, ids: Mapping[str, list[str]]
) -> Iterator[tuple[int, list[str]]]:
    """(number among the kept documents of the part, queries) of the documents with these ids."""
    if not ids:
        return
    for name, first, _ in part.pieces():
        column = all_ids(part.folder / f"{name}.parquet")
        for place in _places_of(column, ids):
            yield first + place, ids[str(column[place])]


def _places_of(column: Any, ids: Iterable[str]) -> list[int]:
    is_wanted = pc.is_in(column, value_set=pa.array(list(ids), pa.string()))
    places: list[int] = np.flatnonzero(is_wanted.to_numpy()).tolist()
    return places


def offsets_around(parts: Sequence[FinishedPart], query: str) -> list[str]:
    """The places of the records before and after ``FILE:OFFSET``, in the file that it names."""
    name, _, offset = query.rpartition(":")
    before: list[int] = []
    after: list[int] = []
    for part in parts:
        numbers = spans_named(part, query)
        if numbers:
            table = read_table(part.ledger, ["span", "offset"])
            offsets = table["offset"].to_numpy()[np.isin(table["span"].to_numpy(), numbers)]
            offsets = offsets[offsets >= 0]
            before += np.sort(offsets[offsets < int(offset)])[-1:].tolist()
            after += np.sort(offsets[offsets > int(offset)])[:1].tolist()
    near = [*sorted(before)[-1:], *sorted(after)[:1]]
    return [f"{name}:{place}" for place in near]


def ids_in(parts: Iterable[FinishedPart]) -> Iterator[str]:
    """Ids of documents, part by part."""
    for part in parts:
        for name, _, _ in part.pieces():
            with pq.ParquetFile(part.folder / f"{name}.parquet") as file:
                for group in range(file.num_row_groups):
                    yield from file.read_row_group(group, columns=["id"])["id"].to_pylist()


def close_matches(parts: Sequence[FinishedPart], query: str) -> list[str]:
    """Ids, and names of files, that look like `query`; a sample of the ids is compared."""
    each = max(_COMPARED_IDS // max(len(parts), 1), 1)
    ids = [name for part in parts for name in islice(ids_in([part]), each)][:_COMPARED_IDS]
    file, _, offset = query.rpartition(":")
    matches = difflib.get_close_matches(query, ids, _CLOSE)
    if file and offset.isdecimal():
        files = sorted({span.file.name for part in parts for span in part.part.spans})
        close = difflib.get_close_matches(file, files[:_COMPARED_IDS], _CLOSE)
        matches = [*(f"{name}:{offset}" for name in close), *matches]
    return list(dict.fromkeys(matches))[:_CLOSE]


def examples(parts: Sequence[FinishedPart]) -> dict[str, list[str]]:
    """The first ids of each source, to show what they look like."""
    found: dict[str, list[str]] = {}
    for part in parts:
        known = found.setdefault(part.part.source, [])
        if len(known) < _EXAMPLES:
            known += islice(ids_in([part]), _EXAMPLES - len(known))
    return found
