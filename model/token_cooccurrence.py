"""Static vectors of tokens from how often they stand near each other. Imports no torch.

The positive pointwise mutual information of neighbours, factorised: what skip-grams with negative
sampling factorise implicitly (Levy and Goldberg 2014). With the settings that Levy et al. 2015
("Improving Distributional Similarity with Lessons Learned from Word Embeddings") found to be as
good as word2vec: a window that weights near neighbours more, contexts smoothed by the power 0.75,
vectors scaled by the square roots of the singular values. Contexts are the most frequent tokens
only, of which a few thousand are enough (Bullinaria and Levy 2012).

V ids, C contexts, D width, B rows, S tokens in a row.
"""

from collections.abc import Sequence

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from model.extended_vocabulary import AuxiliaryVectors

WINDOW = 5
"""Neighbours on each side that are counted; the weight of the d-th is WINDOW + 1 - d."""
MIN_COUNT = 5
"""Occurrences of a token that gets a vector."""
CONTEXTS = 4096
"""Most frequent tokens that are counted as neighbours."""
_SMOOTHING = 0.75
_ITERATIONS = 3
_OVERSAMPLING = 16


def cooccurrence_vectors(
    rows: Sequence[NDArray[np.integer]],
    vocab_size: int,
    special_ids: NDArray[np.int64],
    width: int = 128,
    seed: int = 0,
) -> AuxiliaryVectors:
    """Vectors of up to `width` dimensions for the tokens of `rows` ([B, S] ids each).

    `special_ids` have no vectors, and nothing is a neighbour across them. The result depends on
    the rows, not on how they are divided.
    """
    is_text = np.ones(vocab_size, bool)
    is_text[special_ids] = False
    occurrences = np.zeros(vocab_size, np.int64)
    for block in rows:
        occurrences += np.bincount(block.ravel(), minlength=vocab_size)
    occurrences[~is_text] = 0
    contexts = np.argsort(-occurrences, kind="stable")[: min(CONTEXTS, int(is_text.sum()))]
    column = np.full(vocab_size, -1)
    column[contexts] = np.arange(len(contexts))
    counts = _Sum((vocab_size, len(contexts)))
    for block in rows:
        counts.add(_pairs(block.astype(np.int64), is_text, column, counts.shape))
    found = occurrences >= MIN_COUNT
    vectors = _factors(_positive_information(counts.total()), width, seed)
    vectors[~found] = 0
    return AuxiliaryVectors(vectors.astype(np.float32), found)


class _Sum:
    """The sum of many sparse matrices; those of similar size are added, as in a merge sort."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._parts: list[scipy.sparse.csr_array] = [scipy.sparse.csr_array(shape)]

    def add(self, part: scipy.sparse.csr_array) -> None:
        while self._parts and self._parts[-1].nnz <= 2 * part.nnz:
            part = part + self._parts.pop()
        self._parts.append(part)

    def total(self) -> scipy.sparse.csr_array:
        return sum(self._parts[1:], start=self._parts[0])


def _pairs(
    ids: NDArray[np.int64],
    is_text: NDArray[np.bool_],
    column: NDArray[np.int64],
    shape: tuple[int, int],
) -> scipy.sparse.csr_array:
    """[V, C] weighted counts of tokens (rows) near contexts (columns), on either side."""
    text = is_text[ids]
    pieces = np.cumsum(
        ~text, axis=1
    )  # two tokens with different numbers have a special one between
    rows, columns, weights = [], [], []
    for distance in range(1, min(WINDOW, ids.shape[1] - 1) + 1):
        near = text[:, :-distance] & text[:, distance:]
        near &= pieces[:, :-distance] == pieces[:, distance:]
        left, right = ids[:, :-distance][near], ids[:, distance:][near]
        for token, context in ((left, column[right]), (right, column[left])):
            rows.append(token[context >= 0])
            columns.append(context[context >= 0])
            weights.append(np.full(len(rows[-1]), WINDOW + 1.0 - distance))
    entries = np.concatenate(rows), np.concatenate(columns)
    return scipy.sparse.csr_array((np.concatenate(weights), entries), shape=shape)


def _positive_information(counts: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """[V, C] max(0, log p(a, c) / (p(a) p'(c))), where p' is smoothed."""
    of_token = np.asarray(counts.sum(axis=1)).ravel()
    smoothed = np.asarray(counts.sum(axis=0)).ravel() ** _SMOOTHING
    smoothed /= max(smoothed.sum(), 1e-30)
    pairs = counts.tocoo()
    expected = np.maximum(of_token[pairs.row] * smoothed[pairs.col], 1e-300)
    values = np.maximum(np.log(pairs.data / expected), 0)
    used = values > 0
    entries = pairs.row[used], pairs.col[used]
    return scipy.sparse.csr_array((values[used], entries), shape=counts.shape)


def _factors(matrix: scipy.sparse.csr_array, width: int, seed: int) -> NDArray[np.float64]:
    """[V, D] left singular vectors times the square roots of the singular values, by randomised
    subspace iteration (Halko et al. 2011, algorithm 4.4)."""
    other = matrix.T.tocsr()
    size = min(width + _OVERSAMPLING, *matrix.shape)
    basis = np.random.default_rng(seed).standard_normal((matrix.shape[1], size))
    basis, _ = np.linalg.qr(matrix @ basis)
    for _ in range(_ITERATIONS):
        inner, _ = np.linalg.qr(other @ basis)
        basis, _ = np.linalg.qr(matrix @ inner)
    left, scales, _ = np.linalg.svd((other @ basis).T, full_matrices=False)
    vectors: NDArray[np.float64] = (basis @ left[:, :width]) * np.sqrt(scales[:width])
    return vectors
