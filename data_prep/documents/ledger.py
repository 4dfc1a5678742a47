"""The ledger of the first stage: a row for every record of the sources, and what became of it.

One Parquet file for each part. A record that gave a document is *kept* or *dropped* (by the
filters), one that gave none is *bad* or *skipped*. The kept documents are in the order of the files
of documents, so that their rows here say where in the source each of them was.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.dataset.atomic import open_atomic
from data_prep.filters.verdicts import Verdicts
from data_prep.readers.document import Document, UnusedRecord
from data_prep.readers.files import Span

SUFFIX = ".ledger"
"""Of a Parquet file: not .parquet, which the files of documents have."""
STATES = ("kept", "dropped", "bad", "skipped")
_WORD = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("span", pa.int32()),  # number of the span in the part's plan
        ("offset", pa.int64()),  # see `BadRecords.add`
        ("state", _WORD),  # of STATES
        ("reason", _WORD),  # null where kept
        ("value", pa.float32()),  # what the filter measured; null if it is no number
        ("limit", pa.float32()),
        ("num_bytes", pa.int32()),  # of a dropped text or a record without a document
        ("id", pa.string()),  # of a dropped document, null if it is FILE:OFFSET
        ("member", _WORD),  # of an archive that a record without a document is in
        ("detail", pa.string()),  # of a bad record
    ]
)
_COLUMN_ENCODINGS = {"span": "DELTA_BINARY_PACKED", "offset": "DELTA_BINARY_PACKED"}
_DICTIONARIES = ["state", "reason", "limit", "member"]
_GROUP_ROWS, _UNUSED_ROWS = 100_000, 20_000


class _Judged(NamedTuple):
    """A batch of documents on which the filters have decided: [D] each."""

    span: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    kept: npt.NDArray[np.bool_]
    reasons: npt.NDArray[np.int32]
    values: npt.NDArray[np.float64]
    limits: npt.NDArray[np.float64]
    sizes: npt.NDArray[np.int32]
    ids: Any


class LedgerWriter:
    """Writes the ledger of a part; the file appears when the block ends without error."""

    def __init__(self, path: Path, spans: Sequence[Span]) -> None:
        self._path, self._spans = path, spans
        self._prefixes = [f"{span.file.name}:" for span in spans]
        self._open = ExitStack()
        self._num_judged = 0
        self._starts: list[int] = []
        """Number of the first document of each span."""
        self._numbers: list[int] = []
        """Number of each of these spans."""
        self._judged: list[_Judged] = []
        self._reasons: dict[str, int] = {}
        """Number of each reason to drop a document."""
        self._unused: list[UnusedRecord] = []
        self._unused_spans: list[int] = []

    def __enter__(self) -> Self:
        file = self._open.enter_context(open_atomic(self._path))
        writer = pq.ParquetWriter(
            file,
            SCHEMA,
            compression="zstd",
            compression_level=1,
            use_dictionary=_DICTIONARIES,
            column_encoding=_COLUMN_ENCODINGS,
            write_statistics=["offset", "span"],
            store_schema=False,
        )
        self._writer = self._open.enter_context(writer)
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._write_judged()
            self._write_unused()
        self._open.__exit__(*error)

    def start_span(self, number: int, num_read: int) -> None:
        """The documents after the first `num_read` of the part are of span `number`."""
        self._starts.append(num_read)
        self._numbers.append(number)

    def add_unused(self, record: UnusedRecord) -> None:
        """Adds a record of the current span that gave no document, see `BadRecords.report`."""
        self._unused.append(record)
        self._unused_spans.append(self._numbers[-1] if self._numbers else 0)
        if len(self._unused) >= _UNUSED_ROWS:
            self._write_unused()

    def add(
        self, documents: Sequence[Document], texts: Sequence[bytes], verdicts: Verdicts
    ) -> None:
        """Adds the next documents, with their final texts and the verdicts of the filters."""
        if not documents:
            return
        numbers = np.arange(self._num_judged, self._num_judged + len(documents))
        self._num_judged += len(documents)
        place = np.searchsorted(self._starts, numbers, side="right") - 1
        span = np.array(self._numbers, dtype=np.int32)[place]
        kept = verdicts.undecided
        dropped = np.flatnonzero(~kept)
        self._judged.append(
            _Judged(
                span,
                np.fromiter((d.offset for d in documents), dtype=np.int64, count=len(documents)),
                kept,
                self._numbers_of(verdicts, dropped),
                verdicts.values,
                verdicts.limits,
                np.fromiter(map(len, texts), dtype=np.int32, count=len(texts)),
                self._ids_of(documents, dropped.tolist(), span[dropped].tolist()),
            )
        )
        if sum(len(batch.span) for batch in self._judged) >= _GROUP_ROWS:
            self._write_judged()

    def _ids_of(
        self, documents: Sequence[Document], dropped: Sequence[int], spans: Sequence[int]
    ) -> Any:
        """The ids of the `dropped` documents, null where they are FILE:OFFSET: [D]."""
        found = [documents[k].id for k in dropped]
        places = zip(dropped, spans, strict=True)
        expected = [f"{self._prefixes[span]}{documents[k].offset}" for k, span in places]
        if found == expected:
            return pa.nulls(len(documents), pa.string())
        ids: list[str | None] = [None] * len(documents)
        for k, own, default in zip(dropped, found, expected, strict=True):
            ids[k] = _valid(own) if own != default else None
        return pa.array(ids, pa.string())

    def _numbers_of(
        self, verdicts: Verdicts, dropped: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int32]:
        """The number of the reason of each document, -1 where it is kept: [D]. New reasons are
        numbered in the order of their first documents."""
        codes, first = np.unique(verdicts.codes[dropped], return_index=True)
        numbers = np.full(len(verdicts.names), -1, dtype=np.int32)
        for code in codes[np.argsort(first)].tolist():
            reason = verdicts.names[code]
            numbers[code] = self._reasons.setdefault(reason, len(self._reasons))
        return numbers[verdicts.codes]

    def _write_judged(self) -> None:
        if not self._judged:
            return
        *columns, ids = zip(*self._judged, strict=True)
        span, offset, kept, reasons, values, limits, sizes = map(np.concatenate, columns)
        reason_words = pa.array([_valid(reason) for reason in self._reasons], pa.string())
        arrays = [
            pa.array(span),
            pa.array(offset),
            pa.DictionaryArray.from_arrays(np.where(kept, 0, 1).astype(np.int32), STATES),
            pa.DictionaryArray.from_arrays(pa.array(reasons, mask=kept), reason_words),
            _numbers(values),
            _numbers(limits),
            pa.array(sizes, mask=kept),
            pa.concat_arrays(ids),
            pa.nulls(len(span), SCHEMA.field("member").type),
            pa.nulls(len(span), pa.string()),
        ]
        self._writer.write_batch(pa.record_batch(arrays, schema=SCHEMA))
        self._judged = []

    def _write_unused(self) -> None:
        records, spans = self._unused, self._unused_spans
        if not records:
            return
        paths = [self._spans[span].file.path for span in spans]
        members = [
            record.file_path.removeprefix(f"{path}!") if record.file_path != path else None
            for record, path in zip(records, paths, strict=True)
        ]
        columns = [
            pa.array(spans, pa.int32()),
            pa.array([record.offset for record in records], pa.int64()),
            _words([record.state for record in records]),
            _words([record.reason for record in records]),
            pa.nulls(len(records), pa.float32()),
            pa.nulls(len(records), pa.float32()),
            pa.array([min(r.num_bytes, (1 << 31) - 1) for r in records], pa.int32()),
            pa.nulls(len(records), pa.string()),
            _words(members),
            pa.array([_valid(record.detail) or None for record in records], pa.string()),
        ]
        self._writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
        self._unused, self._unused_spans = [], []


def _words(words: Sequence[str | None]) -> Any:
    return pa.array([_valid(word) for word in words], pa.string()).dictionary_encode()


def _valid(text: str | None) -> str | None:
    """`text` without halves of surrogate pairs, which a file's name may hold."""
    return None if text is None else text.encode("utf-8", "replace").decode()


def _numbers(values: npt.NDArray[np.float64]) -> Any:
    return pa.array(values.astype(np.float32), mask=np.isnan(values))
