"""Where words start, for objectives that choose whole words.

n rows, R tokens in a row, V vocabulary.
"""

import numpy as np
from numpy.typing import NDArray


def number_words(
    rows: NDArray[np.unsignedinteger],
    maskable: NDArray[np.bool_],
    word_starts: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """[n, R] the number within its row of each token's word; special tokens separate words."""
    starts = word_starts[rows] | ~maskable
    starts[:, 1:] |= ~maskable[:, :-1]
    starts[:, 0] = True
    numbers: NDArray[np.int64] = starts.cumsum(axis=1) - 1
    return numbers


def word_starts_of(vocabulary: list[str]) -> NDArray[np.bool_]:
    """[V] which tokens start a word, by the marks of byte-level BPE or WordPiece.

    In byte-level BPE a word starts with a space (written "Ġ") or another white-space character; in
    WordPiece (some token starts with "##") every token without the mark starts one.
    """
    if any(token.startswith("##") and len(token) > 2 for token in vocabulary):
        return np.array([not token.startswith("##") for token in vocabulary])
    return np.array([token.startswith(("Ġ", "Ċ", "ĉ", "č", "▁")) for token in vocabulary])
