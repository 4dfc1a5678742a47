"""Sequence packing, how documents are put into rows: pure functions of the documents' lengths.

A row is a packed sequence. A *placement* says where ids go: row, first column, start in the
source's stream of ids, number of ids. The ``<s>`` and ``</s>`` around the ids, and the padding
after them, follow from it.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
EDGE_TOKENS = 2
"""``<s>`` and ``</s>`` around every row, or every piece of one."""


class Placements(NamedTuple):
    """Pieces of documents in rows, in the order of rows and columns: [P] each."""

    row: I64
    column: I64
    """Column of the piece's ``<s>``."""
    start: I64
    """Number of the piece's first id in the stream."""
    length: I64
    """Ids of the piece, without ``<s>`` and ``</s>``."""

    @property
    def num_rows(self) -> int:
        """Rows that the pieces fill."""
        return int(self.row[-1]) + 1 if len(self.row) else 0


def full_sentences_rows(stream_ids: int, row_tokens: int) -> int:
    """Rows of a stream of `stream_ids` ids, separators included.

    Row i holds ``<s>``, the ids i * (row_tokens - 2) and following, ``</s>``; the last row is
    padded (RoBERTa's FULL-SENTENCES, Liu et al. 2019, section 4.2, run on across documents).
    """
    return -(-stream_ids // (row_tokens - EDGE_TOKENS))


def pieces_of(lengths: I64, starts: I64, longest: int) -> tuple[I64, I64]:
    """(start, length) of the documents' pieces, none longer than `longest`: all but the last of a
    document are that long. Documents without ids have no piece."""
    counts = -(-lengths // longest)
    document = np.repeat(np.arange(len(lengths)), counts)
    within = (np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)) * longest
    return starts[document] + within, np.minimum(lengths[document] - within, longest)


def doc_sentences(lengths: I64, starts: I64, row_tokens: int) -> Placements:
    """A row for each piece: rows never hold two documents (RoBERTa's DOC-SENTENCES).

    `lengths` and `starts` ([D]) are the documents' numbers of ids and positions in the stream.
    """
    start, length = pieces_of(lengths, starts, row_tokens - EDGE_TOKENS)
    return Placements(np.arange(len(start)), np.zeros(len(start), np.int64), start, length)


def best_fit(lengths: I64, starts: I64, row_tokens: int) -> Placements:
    """Whole documents, or row-long pieces of long ones, by best-fit-decreasing.

    Each piece goes, longest first, into the row with the least free space that still fits it (Ding
    et al. 2024, "Fewer Truncations Improve Language Modeling", section 3).
    """
    start, length = pieces_of(lengths, starts, row_tokens - EDGE_TOKENS)
    row, column = _best_fit_places(length + EDGE_TOKENS, row_tokens)
    return _in_order(row, column, start, length)


def grouped_best_fit(lengths: I64, starts: I64, groups: I64, row_tokens: int) -> Placements:
    """Neighbours of the same group share rows, as far as they fit; the rest is filled by best fit.

    `groups` [D] are numbers of the documents' groups; a negative one is a group of its own. One
    after another, the pieces of a group are put together until the next one does not fit into a
    row; what was put together is placed whole, by best-fit-decreasing.
    """
    longest = row_tokens - EDGE_TOKENS
    start, length = pieces_of(lengths, starts, longest)
    group = np.repeat(groups, -(-lengths // longest)).tolist()
    bundle, offset = np.empty(len(start), np.int64), np.empty(len(start), np.int64)
    used: list[int] = []
    before = -1
    for number, size in enumerate((length + EDGE_TOKENS).tolist()):
        if group[number] < 0 or group[number] != before or used[-1] + size > row_tokens:
            used.append(0)
        bundle[number], offset[number] = len(used) - 1, used[-1]
        used[-1] += size
        before = group[number]
    row, column = _best_fit_places(np.array(used, np.int64), row_tokens)
    return _in_order(row[bundle], column[bundle] + offset, start, length)


def _in_order(row: I64, column: I64, start: I64, length: I64) -> Placements:
    by_place = np.lexsort((column, row))
    return Placements(row[by_place], column[by_place], start[by_place], length[by_place])


def _best_fit_places(sizes_of: I64, row_tokens: int) -> tuple[I64, I64]:
    """(row, column) of items of these sizes [N], placed longest first."""
    order = np.argsort(-sizes_of, kind="stable")
    sizes = sizes_of[order].tolist()
    row, column = np.empty(len(sizes), np.int64), np.empty(len(sizes), np.int64)
    rows_with_space: list[list[int]] = [[] for _ in range(row_tokens + 1)]
    spaces = 0  # bit r is set where rows_with_space[r] is not empty
    num_rows = 0
    for number, size in enumerate(sizes):
        fitting = spaces >> size
        if fitting:
            space = size + (fitting & -fitting).bit_length() - 1
            chosen = rows_with_space[space].pop()
            if not rows_with_space[space]:
                spaces &= ~(1 << space)
        else:
            chosen, space = num_rows, row_tokens
            num_rows += 1
        place = order[number]
        row[place], column[place] = chosen, row_tokens - space
        rows_with_space[space - size].append(chosen)
        spaces |= 1 << (space - size)
    return row, column


PACKERS = {"doc_sentences": doc_sentences, "best_fit": best_fit}
"""The modes that place documents; ``full_sentences`` needs no placements."""
