"""Clusters of any number of documents in the memory that a range of them needs.

The documents are cut into ranges of their numbers. A pair belongs to the range of its higher
number. Ranges are contracted from the last to the first, and labelled from the first to the last::

    contract    join the pairs inside the range; of each cluster that has pairs with documents of
                earlier ranges, keep the lowest such document as its parent, and add pairs of this
                parent with the others to the ranges that these belong to
    label       the label of a document is its parent's, which an earlier range has found, or the
                lowest document of its cluster in the range

All that lies between is in temporary files that are read and written in sequence: 8 bytes for each
pair and for each duplicate. (Contraction of nodes from the last to the first: Sibeyn, "External
connected components", SWAT 2004.)
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import numpy as np

from data_prep.dedup.buckets import Buckets
from data_prep.dedup.clusters import duplicates, join, number_type
from data_prep.kernels.compiled import Numbers
from data_prep.text.batch import I64

KnownLabels = Callable[[int, int], Numbers]
"""The labels of the documents [first, end), each at most its own number."""


class ClusterRanges:
    """The clusters that pairs of documents connect. Use it in a ``with`` block."""

    def __init__(
        self, folder: Path, num_documents: int, range_documents: int, at_once: int
    ) -> None:
        """Temporary files are in `folder`. Of `range_documents`, 8 bytes each are in memory, 16
        beyond 2^32 documents; `at_once` of them are treated together."""
        self._num_documents, self._size, self._at_once = num_documents, range_documents, at_once
        self.ranges = [
            (first, min(first + range_documents, num_documents))
            for first in range(0, num_documents, range_documents)
        ]
        """[first, end) of each range."""
        self._number_type = number_type(num_documents)
        self._files = ExitStack()
        self._pairs, self._parents, self._settled = (
            self._files.enter_context(Buckets(folder, len(self.ranges), 2, self._number_type))
            for _ in range(3)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def add(self, pairs: I64) -> None:
        """Adds pairs [2, P] of different documents."""
        low, high = np.minimum(*pairs), np.maximum(*pairs)
        self._pairs.add(high // self._size, np.stack([low, high]))

    def contract(self, known: KnownLabels | None = None) -> int:
        """The number of documents that are not the first of their cluster, once all pairs are
        added. `known` are labels of clusters that were found before."""
        num_duplicates = 0
        for number in reversed(range(len(self.ranges))):
            first, end = self.ranges[number]
            labels = np.arange(end - first, dtype=np.uint32)
            for low, high in self._pairs_of(number, known):
                inside = low >= first
                join(labels, np.stack([low[inside], high[inside]]) - first)
            for _ in duplicates(labels, self._at_once):
                pass  # makes every label a root
            parents = np.full(end - first, self._no_parent, dtype=self._number_type)
            for low, high in self._pairs_of(number, known):
                outside = low < first
                roots = labels[high[outside] - first].astype(np.int64)
                self._join_outside(parents, roots, low[outside])
            num_duplicates += self._settle(number, labels, parents)
        return num_duplicates

    def labels(self) -> Iterator[tuple[int, Numbers]]:
        """(first document, labels) of each range, ascending, once all of them are contracted."""
        for number, (first, end) in enumerate(self.ranges):
            labels = np.arange(first, end, dtype=self._number_type)
            for documents, label in self._settled.read(number):
                labels[documents.astype(np.int64) - first] = label
            for documents, parents in self._parents.read(number):
                label = labels[parents.astype(np.int64) - first]
                ranges = documents.astype(np.int64) // self._size
                self._settled.add(ranges, np.stack([documents, label]))
            yield first, labels

    @property
    def _no_parent(self) -> int:
        """No document of an earlier range has this number."""
        return int(np.iinfo(self._number_type).max)

    def _pairs_of(self, number: int, known: KnownLabels | None) -> Iterator[I64]:
        """[2, P] (lower, higher) of the pairs of a range, some at a time."""
        for pairs in self._pairs.read(number):
            yield pairs.astype(np.int64)
        first, end = self.ranges[number]
        for at in range(first, end if known else first, self._at_once):
            assert known is not None
            documents = np.arange(at, min(at + self._at_once, end))
            labels = known(at, min(at + self._at_once, end)).astype(np.int64)
            joined = labels != documents
            yield np.stack([labels[joined], documents[joined]])

    def _join_outside(self, parents: Numbers, roots: I64, others: I64) -> None:
        """Joins the clusters of a range, named by their `roots`, with documents before it."""
        with_parent = np.unique(roots)
        with_parent = with_parent[parents[with_parent] != self._no_parent]
        roots = np.append(roots, with_parent)
        others = np.append(others, parents[with_parent].astype(np.int64))
        order = np.lexsort((others, roots))
        roots, others = roots[order], others[order]
        is_new = np.append(True, (roots[1:] != roots[:-1]) | (others[1:] != others[:-1]))
        roots, others = roots[is_new[: len(roots)]], others[is_new[: len(roots)]]
        is_first = np.append(True, roots[1:] != roots[:-1])[: len(roots)]
        parents[roots[is_first]] = others[is_first]
        lowest = parents[roots[~is_first]].astype(np.int64)
        self.add(np.stack([lowest, others[~is_first]]))

    def _settle(self, number: int, labels: Numbers, parents: Numbers) -> int:
        """Keeps what `labels` needs of a contracted range; the number of its duplicates."""
        first, end = self.ranges[number]
        num_duplicates = 0
        for at in range(0, end - first, self._at_once):
            roots = labels[at : at + self._at_once].astype(np.int64)
            parent = parents[roots].astype(np.int64)
            documents = np.arange(first + at, first + at + len(roots))
            outside = parent != self._no_parent
            inside = ~outside & (roots + first != documents)
            rows = np.stack([documents[outside], parent[outside]])
            self._parents.add(rows[1] // self._size, rows)
            rows = np.stack([documents[inside], roots[inside] + first])
            self._settled.add(np.full(rows.shape[1], number), rows)
            num_duplicates += int(outside.sum()) + rows.shape[1]
        return num_duplicates
