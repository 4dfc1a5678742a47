"""Clusters of documents, the connected components of pairs.

The label of a cluster is the lowest number of its documents: the one that is kept.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.text.batch import I64

Labels = npt.NDArray[np.integer[Any]]
"""The cluster of each document [N]: a document of it, in the end its lowest; any integer type."""


def join(labels: Labels, edges: I64) -> None:
    """Joins the clusters of `labels` that `edges` [2, E] connect; changes `labels`.

    Each of the labels [N] is at most its own number.
    """
    # Imported here: a run that has nothing to do starts faster without.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

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
    """The lowest number of the cluster of each document. Shortens the paths in `labels`."""
    roots: I64 = labels[numbers].astype(np.int64)
    while True:
        above = labels[roots].astype(np.int64)
        if np.array_equal(above, roots):
            break
        roots = above
    labels[numbers] = roots
    return roots


def duplicates(labels: Labels, at_once: int) -> Iterator[tuple[I64, I64]]:
    """(duplicates, the kept document of each), ascending, from `at_once` documents at a time."""
    for at in range(0, len(labels), at_once):
        numbers = np.arange(at, min(at + at_once, len(labels)))
        roots = roots_of(labels, numbers)
        is_duplicate = roots != numbers
        yield numbers[is_duplicate], roots[is_duplicate]


def clusters(edges: I64, num_documents: int) -> tuple[I64, I64]:
    """(duplicates [n], the kept document of each [n]) of the clusters of `edges` [2, E].

    Ascending. The lowest number of a cluster is kept.
    """
    labels = np.arange(num_documents)
    join(labels, edges)
    roots = roots_of(labels, np.arange(num_documents))
    is_duplicate = roots != np.arange(num_documents)
    return np.flatnonzero(is_duplicate), roots[is_duplicate]


def number_type(num_documents: int) -> type[np.integer[Any]]:
    """The narrowest type of document numbers on disk."""
    return np.uint32 if num_documents <= 1 << 32 else np.int64


def fewest_pairs(pairs: I64) -> I64:
    """Pairs (kept, duplicate) that connect what `pairs` [2, P] do, one for each duplicate."""
    nodes, flat = np.unique(pairs, return_inverse=True)
    duplicate, kept = clusters(flat.reshape(pairs.shape), len(nodes))
    return np.stack([nodes[kept], nodes[duplicate]])
