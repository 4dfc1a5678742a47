"""Connected sets of documents out of pairs: the label of all of a set is its lowest number."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data_prep.text.batch import I64

Labels = npt.NDArray[np.integer[Any]]
"""The set of each of N documents: a document of it, in the end its lowest; of any width."""

DOCUMENTS_AT_ONCE = 1 << 20


def join(labels: Labels, edges: I64) -> None:
    """Makes the connected sets of `labels` ([N], each at most its own number) those that `edges`
    ([2, E]) connect too."""
    left, right = roots_of(labels, edges[0]), roots_of(labels, edges[1])
    differing = left != right
    if not differing.any():
        return
    nodes, flat = np.unique(
        np.concatenate([left[differing], right[differing]]), return_inverse=True
    )
    one, other = flat.reshape(2, -1)
    ones = np.ones(len(one), dtype=np.int8)
    graph = coo_array((ones, (one, other)), shape=(len(nodes), len(nodes)))
    _, component = connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)  # the lowest, as the nodes ascend
    labels[nodes] = nodes[first[component]]


def roots_of(labels: Labels, numbers: I64) -> I64:
    """The lowest number of the set of each document."""
    roots: I64 = labels[numbers].astype(np.int64)
    while True:
        above = labels[roots].astype(np.int64)
        if np.array_equal(above, roots):
            break
        roots = above
    labels[numbers] = roots
    return roots


def duplicates(labels: Labels) -> Iterator[tuple[I64, I64]]:
    """(documents that go, for each the one that stays), ascending, a run of documents at a time."""
    for at in range(0, len(labels), DOCUMENTS_AT_ONCE):
        numbers = np.arange(at, min(at + DOCUMENTS_AT_ONCE, len(labels)))
        roots = roots_of(labels, numbers)
        goes = roots != numbers
        yield numbers[goes], roots[goes]


def clusters(edges: I64, num_documents: int) -> tuple[I64, I64]:
    """Of every connected set of documents, those that go and, for each, the one that stays.

    `edges` is [2, E]; gives [n], [n], ascending. The lowest number of a set stays.
    """
    labels = np.arange(num_documents)
    join(labels, edges)
    empty = np.empty(0, np.int64)
    goes, stays = zip(*duplicates(labels), strict=True) if num_documents else ([empty], [empty])
    return np.concatenate(goes), np.concatenate(stays)


def number_type(num_documents: int) -> type[np.integer[Any]]:
    """The narrowest type of document numbers on disk."""
    return np.uint32 if num_documents <= 1 << 32 else np.int64


def fewest_pairs(pairs: I64) -> I64:
    """Pairs (lowest, other) that connect what `pairs` ([2, P]) do, one a document that goes."""
    nodes, flat = np.unique(pairs, return_inverse=True)
    goes, stays = clusters(flat.reshape(pairs.shape), len(nodes))
    return np.stack([nodes[stays], nodes[goes]])
