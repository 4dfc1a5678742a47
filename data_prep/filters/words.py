"""What the filters measure of a text's words (Gopher's rules, Rae et al. 2021, section A.1.1).

Legend: D documents, W words of a batch.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from data_prep.text.batch import I64, TextBatch
from data_prep.text.normalise import normalise

F64 = npt.NDArray[np.float64]


def mean_word_bytes(batch: TextBatch) -> F64:
    """The mean length of each text's words, bytes: [D]."""
    return batch.word_bytes * _per_word(batch)


def letter_share(batch: TextBatch) -> F64:
    """The share of each text's words that start with a letter: [D]."""
    return batch.sum_over_words(batch.word_starts_with_letter) * _per_word(batch)


def symbols_per_word(batch: TextBatch) -> F64:
    """The number of hash signs or of ellipses, whichever is greater, per word: [D]."""
    hash_signs = batch.count_at(np.flatnonzero(batch.data == ord("#")))
    return np.maximum(hash_signs, batch.count_at(batch.ellipses)) * _per_word(batch)


def stop_word_count(batch: TextBatch, stop_words: Sequence[str]) -> I64:
    """The number of words of each text that are stop words: [D]."""
    stop_word_hashes = TextBatch(normalise([" ".join(stop_words)])).word_hashes
    return batch.sum_over_words(np.isin(batch.word_hashes, stop_word_hashes))


def _per_word(batch: TextBatch) -> F64:
    """The factor that makes a sum over each text's words a mean: [D]."""
    return 1 / np.maximum(batch.word_counts, 1)
