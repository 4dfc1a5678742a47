"""Texts without some of their lines, and a table of what was removed of which document."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.dataset.atomic import open_atomic
from data_prep.text.batch import I64, TextBatch
from data_prep.text.normalise import SEPARATOR, plain_white_space

REMOVED_SUFFIX = ".removed"
"""Of a Parquet file: not .parquet, which the files of documents have."""
_REMOVED = pa.schema(
    [
        ("document", pa.int32()),  # number in its file, before any was dropped
        ("lines", pa.int32()),
        ("bytes", pa.int32()),
        ("words", pa.int32()),  # that are left
        ("dropped", pa.bool_()),
    ]
)


def without_lines(
    batch: TextBatch, starts: I64, ends: I64, keeps_whitespace: bool = False
) -> list[bytes]:
    """The texts of a batch without the lines that `starts` and `ends` bound.

    The white space that is left is plain, or stays as it is but for the newlines of these lines.
    """
    if not len(starts):
        return list(batch.texts)
    if keeps_whitespace:
        ends = ends + (batch.data[ends] == ord("\n"))
    change = np.zeros(len(batch.data) + 1, dtype=np.int32)
    change[starts] += 1
    change[ends] -= 1
    keep = np.cumsum(change[:-1]) == 0
    last = int(batch.ends[-1])
    rest = batch.data[1:last][keep[1:last]].tobytes()
    if keeps_whitespace:
        return [text.strip(b"\n") for text in rest.split(SEPARATOR)]
    joined = plain_white_space(rest)
    return [text.strip(b" \n") for text in joined.split(SEPARATOR)]


def removed_rows(
    first: int, batch: TextBatch, of: I64, lengths: I64, words: I64, keep: npt.NDArray[np.bool_]
) -> pa.Table:
    """A row for each document of a batch that lost lines.

    The first one has number `first` in its file; `of` is the text of each removed line, `lengths`,
    `words` and `keep` ([D]) are the bytes and words left, and whether the document is kept.
    """
    lines = np.bincount(of, minlength=len(lengths))
    changed = np.flatnonzero((lines > 0) | ~keep)
    columns = [
        pa.array((first + changed).astype(np.int32)),
        pa.array(lines[changed].astype(np.int32)),
        pa.array((batch.lengths - lengths)[changed].astype(np.int32)),
        pa.array(words[changed].astype(np.int32)),
        pa.array(~keep[changed]),
    ]
    return pa.Table.from_arrays(columns, schema=_REMOVED)


def write_removed(path: Path, rows: Sequence[pa.Table]) -> None:
    """Writes the rows of a file of documents."""
    with open_atomic(path) as file:
        table = pa.concat_tables([_REMOVED.empty_table(), *rows])
        pq.write_table(table, file, compression="zstd")
