"""What decontamination keeps for `explain` and the report, in compact columns: the names of the
evaluation texts, and the sets that each dropped document overlaps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.dataset.atomic import open_atomic
from data_prep.dedup.exclusion_table import Matches
from data_prep.documents.files import read_table

TEXTS_SUFFIX, OVERLAP_SUFFIX = ".texts", ".sets"
"""Of Parquet files: not .parquet, which the files of documents have."""
_EXCERPT_BYTES = 200
_TEXTS = pa.schema([("id", pa.string()), ("text", pa.string())])
_OVERLAP = pa.schema(
    [
        ("document", pa.int32()),  # number in its file
        ("set", pa.dictionary(pa.int16(), pa.string())),
        ("ngrams", pa.int32()),  # that it shares with the set
        ("of", pa.int32()),  # its n-grams
    ]
)


class TextNames:
    """The ids and first bytes of evaluation texts, in their order."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._texts: list[str] = []

    def add(self, texts: Sequence[bytes], ids: Sequence[str]) -> list[bytes]:
        """The texts, which are noted."""
        self._ids += [name.encode("utf-8", "replace").decode() for name in ids]
        self._texts += [text[:_EXCERPT_BYTES].decode("utf-8", "ignore") for text in texts]
        return list(texts)

    def write(self, path: Path) -> None:
        """Writes the table."""
        _write(path, pa.table([self._ids, self._texts], schema=_TEXTS))


class SharedCounts:
    """The sets that the documents of a file overlap."""

    def __init__(self, set_names: Sequence[str], combinations: Sequence[Sequence[int]]) -> None:
        self._names = set_names
        self._has = np.zeros((len(combinations), len(set_names)), dtype=bool)
        for number, sets in enumerate(combinations):
            self._has[number, list(sets)] = True
        self._rows: list[tuple[npt.NDArray[Any], ...]] = []
        self._found = np.zeros((len(set_names), 2), dtype=np.int64)

    def add(self, matches: Matches, first: int, dropped: npt.NDArray[np.bool_]) -> None:
        """Notes the matches of a batch; its first document has number `first` in the file.

        Documents that are not training documents must have no matches.
        """
        if not len(matches.texts):
            return
        for number in np.flatnonzero(self._has[np.unique(matches.combinations)].any(axis=0)):
            counts = matches.counts(self._has[matches.combinations, number])
            overlapping = counts > 0
            self._found[number] += overlapping.sum(), (overlapping & dropped).sum()
            texts = np.flatnonzero(overlapping & dropped)
            sets = np.full(len(texts), number)
            self._rows.append((first + texts, sets, counts[texts], matches.totals[texts]))

    @property
    def found(self) -> list[list[Any]]:
        """[set, documents that overlap it, those of them that are dropped] for each set."""
        return [
            [name, *counts] for name, counts in zip(self._names, self._found.tolist(), strict=True)
        ]

    def write(self, path: Path) -> None:
        """Writes a row for each dropped document and each set that it overlaps."""
        empty = (np.empty(0, np.int64),) * 4
        columns = [np.concatenate(column) for column in zip(empty, *self._rows, strict=True)]
        order = np.lexsort((columns[1], columns[0]))
        document, sets, ngrams, of = (column[order] for column in columns)
        names = pa.DictionaryArray.from_arrays(
            pa.array(sets.astype(np.int16)), pa.array(list(self._names), pa.string())
        )
        numbers = [pa.array(column.astype(np.int32)) for column in (document, ngrams, of)]
        _write(path, pa.table([numbers[0], names, *numbers[1:]], schema=_OVERLAP))


def sets_of_document(path: Path, number: int) -> list[dict[str, Any]]:
    """The sets that a dropped document overlaps: set, ngrams, share of its n-grams; the largest
    first."""
    table = read_table(path)
    rows = table.filter(pc.equal(table["document"], number)).to_pylist()
    found = [
        {
            "set": row["set"],
            "ngrams": row["ngrams"],
            "share": round(row["ngrams"] / max(row["of"], 1), 6),
        }
        for row in rows
    ]
    return sorted(found, key=lambda row: -row["ngrams"])


def text_names(path: Path) -> list[dict[str, str]]:
    """The id and the first bytes of each evaluation text."""
    rows: list[dict[str, str]] = read_table(path).to_pylist()
    return rows


def _write(path: Path, table: pa.Table) -> None:
    with open_atomic(path) as file:
        pq.write_table(table, file, compression="zstd")
