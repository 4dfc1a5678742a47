"""Whole-word masking: the tokens of a word are chosen together.

n rows, R tokens in a row, K label slots of a row.
"""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from model.objectives.choice import positions_of
from model.objectives.masking import MaskedRows, MaskingConfig, RowsToMask
from model.objectives.vocabulary import Vocabulary
from model.objectives.words import number_words

# A word longer than this can only be chosen while that many label slots are left.
_EXTRA_SLOTS = 8


class WholeWordMaskingConfig(MaskingConfig):
    """Words are chosen at random until the rate is reached, in expectation exactly.

    What becomes of a chosen token is decided for each token of a word by itself.
    """

    READS_WORDS: ClassVar[bool] = True

    type: Literal["whole_word"] = "whole_word"

    def num_slots(self, row_tokens: int) -> int:
        """K: the last word chosen may go beyond the rate."""
        return min(row_tokens, super().num_slots(row_tokens) + _EXTRA_SLOTS)

    def mask(self, batch: RowsToMask, vocabulary: Vocabulary) -> MaskedRows:
        assert vocabulary.word_starts is not None
        row_tokens = batch.rows.shape[1]
        num_slots = self.num_slots(row_tokens)
        words = batch.words(row_tokens + num_slots + 1)
        maskable = batch.ordinary(vocabulary.special)
        budget = batch.rate(self.mask_rate) * maskable.sum(axis=1)  # [n]
        word_of = number_words(batch.rows, maskable, vocabulary.word_starts)  # [n, R]
        uniform = (words[:, -1] >> np.uint64(11)).astype(np.float64) * 2.0**-53
        chosen = choose_words(words[:, :row_tokens], word_of, maskable, budget, uniform, num_slots)
        positions, used = positions_of(chosen, num_slots)
        slots = words[:, row_tokens : row_tokens + num_slots]
        return self.masked(batch, positions, used, slots, vocabulary)


def choose_words(
    words: NDArray[np.uint64],
    word_of: NDArray[np.int64],
    maskable: NDArray[np.bool_],
    budget: NDArray[np.floating],
    uniform: NDArray[np.floating],
    num_slots: int,
) -> NDArray[np.bool_]:
    """[n, R] which tokens are chosen: whole words, in random order, until `budget` [n] tokens.

    The word that crosses the budget is chosen with the probability that makes the expected number
    of tokens the budget, unless the slots do not hold it. Crossing words are long ones: in rows of
    a few words, short words are therefore chosen a little more often than long ones.
    """
    num_rows, row_tokens = words.shape
    row = np.arange(num_rows)[:, None]
    lengths = np.zeros((num_rows, row_tokens), np.int64)
    np.add.at(lengths, (np.broadcast_to(row, word_of.shape)[maskable], word_of[maskable]), 1)
    keys = words >> np.uint64(1)
    keys[lengths == 0] = np.uint64(2**64 - 1)  # no such word: after all others
    order = np.argsort(keys, axis=1)  # word numbers in random order
    ordered = np.take_along_axis(lengths, order, axis=1)
    after = ordered.cumsum(axis=1)
    before = after - ordered
    limit = budget[:, None]
    share_that_fits = (limit - before) / np.maximum(ordered, 1)
    taken = (after <= limit) | ((before < limit) & (uniform[:, None] < share_that_fits))
    taken &= (ordered > 0) & (after <= num_slots)
    word_taken = np.zeros((num_rows, row_tokens), bool)
    np.put_along_axis(word_taken, order, taken, axis=1)
    result: NDArray[np.bool_] = np.take_along_axis(word_taken, word_of, axis=1) & maskable
    return result
