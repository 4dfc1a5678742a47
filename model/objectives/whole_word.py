"""Whole-word masking: the tokens of a word are chosen together.

n rows, R tokens in a row, K label slots of a row.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from configs.load import Config, ConfigError
from model.objectives.mlm import (
    Corruption,
    MaskedRows,
    MaskRate,
    check_ids,
    corrupt,
    highest_rate,
    is_ordinary,
    rate_at,
    round_half_up,
)
from model.objectives.philox import row_words
from model.objectives.vocabulary import SpecialIds

# A word longer than this can only be chosen while that many label slots are left.
_EXTRA_SLOTS = 8


class WholeWordMaskingConfig(Config):
    """Words are chosen at random until the rate is reached, in expectation exactly."""

    type: Literal["whole_word"] = "whole_word"
    mask_rate: MaskRate = 0.15
    """Share of a row's ordinary tokens that is chosen."""
    corruption: Corruption = Corruption()
    """What becomes of the chosen tokens, each by itself."""

    def num_slots(self, row_tokens: int) -> int:
        """K: the last word chosen may go beyond the rate."""
        return max(1, round_half_up(highest_rate(self.mask_rate) * row_tokens)) + _EXTRA_SLOTS

    def build(
        self, vocab_size: int, word_starts: NDArray[np.bool_] | None = None
    ) -> "WholeWordMaskingObjective":
        """The objective; `word_starts` [V] tells which tokens begin a word."""
        starts = require_word_starts(self.type, vocab_size, word_starts)
        return WholeWordMaskingObjective(self, SpecialIds.of(vocab_size), starts)


@dataclass(frozen=True)
class WholeWordMaskingObjective:
    """Masks rows; a pure function of (rows, seed, pass, source, row number)."""

    config: WholeWordMaskingConfig
    special: SpecialIds
    word_starts: NDArray[np.bool_]

    def mask_rows(
        self,
        rows: NDArray[np.unsignedinteger],
        *,
        seed: int,
        passes: NDArray[np.integer],
        row_numbers: NDArray[np.integer],
        sources: NDArray[np.integer] | None = None,
        progress: float | NDArray[np.floating] = 0.0,
    ) -> MaskedRows:
        """The masked `rows` [n, R]; arguments as for `MaskedLanguageModelObjective.mask_rows`."""
        num_rows, row_tokens = rows.shape
        check_ids(rows, self.special)
        num_slots = self.config.num_slots(row_tokens)
        words = row_words(
            row_tokens + num_slots + 1,
            seed=seed,
            passes=passes,
            sources=np.zeros(num_rows, np.int64) if sources is None else sources,
            row_numbers=row_numbers,
        )
        maskable = is_ordinary(rows, self.special)
        budget = rate_at(self.config.mask_rate, progress) * maskable.sum(axis=1)  # [n]
        word_of = number_words(rows, maskable, self.word_starts)  # [n, R]
        uniform = (words[:, -1] >> np.uint64(11)).astype(np.float64) * 2.0**-53
        chosen = choose_words(words[:, :row_tokens], word_of, maskable, budget, uniform, num_slots)
        positions, used = positions_of(chosen, num_slots)
        slots = words[:, row_tokens : row_tokens + num_slots]
        return corrupt(rows, positions, used, slots, self.config.corruption, self.special)


def choose_words(
    words: NDArray[np.uint64],
    word_of: NDArray[np.int64],
    maskable: NDArray[np.bool_],
    budget: NDArray[np.floating],
    uniform: NDArray[np.floating],
    num_slots: int,
) -> NDArray[np.bool_]:
    """[n, R] which tokens are chosen: whole words, in random order, until `budget` [n] tokens.

    The word that crosses the budget is taken with the probability that makes the expected number
    of tokens the budget, unless the slots do not hold it. Crossing words are long ones: in rows of
    a few words, short words are therefore chosen a little more often than long ones.
    """
    num_rows, row_tokens = words.shape
    row = np.arange(num_rows)[:, None]
    lengths = np.zeros((num_rows, row_tokens), np.int64)
    np.add.at(lengths, (np.broadcast_to(row, word_of.shape)[maskable], word_of[maskable]), 1)
    keys = words >> np.uint64(1)
    keys[lengths == 0] = np.uint64(2**64 - 1)  # no such word: behind all others
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


def number_words(
    rows: NDArray[np.unsignedinteger],
    maskable: NDArray[np.bool_],
    word_starts: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """[n, R] the number within its row of each token's word; special tokens end words."""
    begins = word_starts[rows] | ~maskable
    begins[:, 1:] |= ~maskable[:, :-1]
    begins[:, 0] = True
    return begins.cumsum(axis=1) - 1


def positions_of(
    chosen: NDArray[np.bool_], num_slots: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """([n, K] ascending positions, [n, K] which slots are used) of `chosen` [n, R], K at most."""
    num_chosen = np.minimum(chosen.sum(axis=1), num_slots)
    positions = np.argsort(~chosen, axis=1, kind="stable")[:, :num_slots]
    used = np.arange(num_slots) < num_chosen[:, None]
    return np.where(used, positions, 0), used


def require_word_starts(
    objective: str, vocab_size: int, word_starts: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """`word_starts`, checked. Raises ConfigError if they are missing or of another length."""
    if word_starts is None or word_starts.shape != (vocab_size,):
        raise ConfigError(
            f"objective {objective} needs to know which of the {vocab_size} tokens begin a word: "
            "give the tokenizer's vocabulary"
        )
    return word_starts


def word_starts_of(vocabulary: list[str]) -> NDArray[np.bool_]:
    """[V] which tokens begin a word, by the marks of byte-level BPE or WordPiece.

    In byte-level BPE a word begins with a space (written "Ġ") or another white-space character; in
    WordPiece (some token begins with "##") every token does that lacks the mark.
    """
    if any(token.startswith("##") and len(token) > 2 for token in vocabulary):
        return np.array([not token.startswith("##") for token in vocabulary])
    return np.array([token.startswith(("Ġ", "Ċ", "ĉ", "č", "▁")) for token in vocabulary])
