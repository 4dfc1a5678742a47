"""Static vectors of tokens from how often they stand near each other. Imports no torch.

The positive pointwise mutual information of neighbours, factorised: what skip-grams with negative
sampling factorise implicitly (Levy and Goldberg 2014). With the settings that Levy et al. 2015
("Improving Distributional Similarity with Lessons Learned from Word Embeddings") found to be as
good as word2vec: a window that weights near neighbours more, contexts smoothed by the power 0.75,
vectors scaled by the square roots of the eigenvalues.

V ids, D width, B rows, S tokens in a row.
"""

from collections.abc import Iterable

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from model.extended_vocabulary import AuxiliaryVectors

WINDOW = 5
"""Neighbours on each side that are counted; the weight of the d-th is WINDOW + 1 - d."""
MIN_COUNT = 5
"""Occurrences of a token that gets a vector."""
_SMOOTHING = 0.75
_ITERATIONS = 6
_OVERSAMPLING = 16


def cooccurrence_vectors(
    rows: Iterable[NDArray[np.integer]],
    vocab_size: int,
    special_ids: NDArray[np.int64],
    width: int = 300,
    seed: int = 0,
) -> AuxiliaryVectors:
    """Vectors of up to `width` dimensions for the tokens of `rows` ([B, S] ids each).

    `special_ids` have no vectors, and nothing is a neighbour across them. The result depends on
    the rows, not on how they are divided. Memory is about 24 bytes for each pair of different
    tokens that are neighbours somewhere.
    """
    is_text = np.ones(vocab_size, bool)
    is_text[special_ids] = False
    counts = scipy.sparse.csr_array((vocab_size, vocab_size), dtype=np.float64)
    occurrences = np.zeros(vocab_size, np.int64)
    for block in rows:
        ids = block.astype(np.int64)
        text = is_text[ids]
        occurrences += np.bincount(ids[text], minlength=vocab_size)
        counts = counts + _pairs(ids, text, vocab_size)
    counts = counts + counts.T
    found = occurrences >= MIN_COUNT
    information = _positive_information(counts)
    vectors = _factors(information, min(width, vocab_size), seed)
    vectors[~found] = 0
    return AuxiliaryVectors(vectors.astype(np.float32), found)


def _pairs(
    ids: NDArray[np.int64], text: NDArray[np.bool_], vocab_size: int
) -> scipy.sparse.csr_array:
    """[V, V] weighted counts of a token (rows) before another (columns)."""
    pieces = np.cumsum(
        ~text, axis=1
    )  # two tokens with different numbers have a special one between
    shape = vocab_size, vocab_size
    result = scipy.sparse.csr_array(shape, dtype=np.float64)
    for distance in range(1, min(WINDOW, ids.shape[1] - 1) + 1):
        left, right = ids[:, :-distance], ids[:, distance:]
        near = text[:, :-distance] & text[:, distance:]
        near &= pieces[:, :-distance] == pieces[:, distance:]
        weight = np.full(int(near.sum()), WINDOW + 1.0 - distance)
        result = result + scipy.sparse.csr_array((weight, (left[near], right[near])), shape=shape)
    return result


def _positive_information(counts: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """[V, V] max(0, log p(a, b) / (p(a) p'(b))), p' smoothed, and made symmetric."""
    of_token = np.asarray(counts.sum(axis=1)).ravel()
    smoothed = of_token**_SMOOTHING
    smoothed /= max(smoothed.sum(), 1e-30)
    pairs = counts.tocoo()
    expected = of_token[pairs.row] * smoothed[pairs.col]
    values = np.maximum(np.log(pairs.data / np.maximum(expected, 1e-300)), 0)
    one_way = scipy.sparse.csr_array((values, (pairs.row, pairs.col)), shape=counts.shape)
    both: scipy.sparse.csr_array = (one_way + one_way.T) / 2
    return both


def _factors(matrix: scipy.sparse.csr_array, width: int, seed: int) -> NDArray[np.float64]:
    """[V, D] vectors whose products approximate a symmetric matrix: randomised subspace iteration
    (Halko et al. 2011, algorithm 4.4)."""
    size = min(width + _OVERSAMPLING, matrix.shape[0])
    basis = np.random.default_rng(seed).standard_normal((matrix.shape[0], size))
    for _ in range(_ITERATIONS):
        basis, _ = np.linalg.qr(matrix @ basis)
    values, inner = np.linalg.eigh(basis.T @ (matrix @ basis))
    largest = np.argsort(-values)[:width]
    scales = np.sqrt(np.maximum(values[largest], 0))
    vectors: NDArray[np.float64] = (basis @ inner[:, largest]) * scales
    return vectors
