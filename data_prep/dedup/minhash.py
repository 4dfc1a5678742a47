"""MinHash signatures of one byte per hash, and the similarity that two of them estimate.

112 hashes in 14 bands of 8 (Broder 1997; bands after Leskovec, Rajaraman and Ullman, "Mining of
Massive Datasets", section 3.4). Only the lowest byte of each hash is kept (b-bit MinHash, Li and
Koenig 2010): a band is then eight bytes, read as one integer, and the same 112 bytes estimate the
similarity of a pair, since unequal hashes agree in a byte by chance once in 256.
"""

from array import array

import numpy as np
import numpy.typing as npt
import rensa

from data_prep.kernels.joins import equal_bytes
from data_prep.text.batch import I64, U64, TextBatch

NUM_BANDS, BAND_ROWS = 14, 8
NUM_HASHES = NUM_BANDS * BAND_ROWS
_SEED = 1
_CHANCE = 1 / 256
Signatures = U64
"""[D, 14]: a row is a text, a column a band, whose eight bytes are one integer."""


def signatures(batch: TextBatch, ngram_words: int, text_hashes: U64) -> Signatures:
    """The signature of each text's set of n-grams of words, or of characters in scripts without
    spaces: [D, 14].

    A text of fewer than `ngram_words` has one item, its hash of `text_hashes` ([D]), so that it
    resembles only its equal.
    """
    hashes, first = batch.token_ngrams(ngram_words)
    bounds = np.searchsorted(first, batch.first_tokens)
    short = np.flatnonzero(np.diff(bounds) == 0)
    items = np.insert(hashes, bounds[short], text_hashes[short])
    offsets = bounds + np.searchsorted(short, np.arange(len(bounds)))
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        items, offsets.astype(np.uint64), NUM_HASHES, _SEED
    )
    # rensa gives lists of Python integers; an array of each is twice as fast as numpy on them all.
    content = b"".join([array("I", row).tobytes() for row in matrix.to_rows()])
    rows = np.frombuffer(content, dtype=np.uint32).reshape(len(batch.texts), NUM_HASHES)
    lowest_bytes = rows.astype(np.uint8)  # [D, 112]
    return lowest_bytes.view("<u8")  # [D, 14]


def band_keys(signatures: Signatures, band: int) -> U64:
    """The eight bytes of one band of each signature as an integer: [D, 14] to [D].

    The bands 0 .. 13 are those of the signature. The same bytes in a different grouping, the r-th
    byte of a band from the r-th next one, give 14 more: at a similarity of .8 they find most of the
    8 % of the pairs that the first 14 miss, for the time of another join and no state.
    """
    grouping, band = divmod(band, NUM_BANDS)
    if grouping == 0:
        return np.ascontiguousarray(signatures[:, band])
    bytes_of = signatures.view(np.uint8).reshape(-1, NUM_BANDS, BAND_ROWS)
    columns = [bytes_of[:, (band + r * grouping) % NUM_BANDS, r] for r in range(BAND_ROWS)]
    keys: U64 = np.stack(columns, axis=1).view("<u8")[:, 0]
    return keys


def similarity(left: Signatures, right: Signatures) -> npt.NDArray[np.float64]:
    """The estimated Jaccard similarity of each pair of signatures: [P, 14] twice to [P]; or [1, 14]
    for one of them."""
    width = left.shape[1]
    flat_left, flat_right = (np.ascontiguousarray(one).reshape(-1) for one in (left, right))
    equal = equal_bytes(flat_left, flat_right, width)
    return _estimate(equal, 8 * width)


def least_equal_bytes(min_similarity: float, num_bytes: int) -> int:
    """How many of the bytes of two signatures are equal, at least, where the similarity that they
    estimate is `min_similarity` or more."""
    estimates = _estimate(np.arange(num_bytes + 1), num_bytes)
    return int(np.searchsorted(estimates, min_similarity))


def _estimate(equal: I64, num_bytes: int) -> npt.NDArray[np.float64]:
    agreement = equal / num_bytes
    estimate: npt.NDArray[np.float64] = (agreement - _CHANCE) / (1 - _CHANCE)
    return estimate
