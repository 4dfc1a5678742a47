"""Masked language modelling with dynamic masks: every pass over a row masks it anew.

n rows, R tokens in a row, K label slots of a row.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from configs.load import Config
from model.objectives.philox import row_words
from model.objectives.vocabulary import SpecialIds

UNUSED_LABEL = -100
_LAST_KEY = np.uint32(0xFFFFFFFF)


@dataclass(frozen=True)
class MaskedRows:
    """What the network gets: masked tokens, and where and what it must predict."""

    tokens: NDArray[np.integer]
    """[n, R] token ids after masking, of the type of the rows."""
    positions: NDArray[np.integer]
    """[n, K] masked positions in ascending order, 0 in unused slots at the end."""
    labels: NDArray[np.integer]
    """[n, K] the original ids at `positions`, -100 in unused slots."""


class Corruption(Config):
    """What becomes of a chosen token (Devlin et al. 2019, section 3.1: 80 / 10 / 10 %)."""

    mask: float = Field(0.8, ge=0, le=1)
    """Share of the chosen tokens replaced by <mask>."""
    random: float = Field(0.1, ge=0, le=1)
    """Share replaced by a random ordinary token; the rest stays as it is."""

    @model_validator(mode="after")
    def _shares_sum_to_at_most_one(self) -> "Corruption":
        if self.mask + self.random > 1 + 1e-9:
            raise ValueError(f"mask + random must be at most 1, not {self.mask + self.random:g}")
        return self


class LinearMaskRate(Config):
    """A mask rate that moves on a straight line over the training."""

    type: Literal["linear"] = "linear"
    start: float = Field(0.3, gt=0, lt=1)
    """Share of tokens chosen at the beginning."""
    end: float = Field(0.15, gt=0, lt=1)
    """Share of tokens chosen at the end."""


MaskRate = Annotated[float, Field(gt=0, lt=1)] | LinearMaskRate


def rate_at(rate: MaskRate, progress: float | NDArray[np.floating]) -> NDArray[np.floating]:
    """The mask rate at `progress` (0: begin of training, 1: end), of its shape."""
    share = np.clip(np.asarray(progress, dtype=np.float64), 0.0, 1.0)
    if isinstance(rate, LinearMaskRate):
        return rate.start + (rate.end - rate.start) * share
    return np.full(share.shape, rate)


def highest_rate(rate: MaskRate) -> float:
    """The highest rate of a schedule: it fixes the number of label slots."""
    return max(rate.start, rate.end) if isinstance(rate, LinearMaskRate) else rate


class MaskedLanguageModelConfig(Config):
    """Dynamic masking (Liu et al. 2019, section 4.1), with exactly round(rate x maskable) a row."""

    type: Literal["mlm"] = "mlm"
    mask_rate: MaskRate = 0.15
    """Share of a row's ordinary tokens that is chosen: a number, or a schedule."""
    corruption: Corruption = Corruption()
    """What becomes of the chosen tokens."""

    def num_slots(self, row_tokens: int) -> int:
        """K, the label slots of a row of `row_tokens` tokens: the most that can be chosen."""
        return max(1, round_half_up(highest_rate(self.mask_rate) * row_tokens))

    def build(
        self, vocab_size: int, word_starts: NDArray[np.bool_] | None = None
    ) -> "MaskedLanguageModelObjective":
        """The objective for a vocabulary of `vocab_size` ids in RoBERTa's layout."""
        return MaskedLanguageModelObjective(self, SpecialIds.of(vocab_size))


@dataclass(frozen=True)
class MaskedLanguageModelObjective:
    """Masks rows; a pure function of (rows, seed, pass, source, row number)."""

    config: MaskedLanguageModelConfig
    special: SpecialIds

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
        """The masked `rows` [n, R]; `passes`, `row_numbers`, `sources` are [n] (sources 0 if None).

        `progress` in training, from 0 to 1 (one number, or [n]), matters for mask-rate schedules.
        Raises ValueError when an id of `rows` is outside of the vocabulary.
        """
        num_rows, row_tokens = rows.shape
        check_ids(rows, self.special)
        num_slots = self.config.num_slots(row_tokens)
        words_to_choose = -(-row_tokens // 2)
        words = row_words(
            words_to_choose + num_slots,
            seed=seed,
            passes=passes,
            sources=np.zeros(num_rows, np.int64) if sources is None else sources,
            row_numbers=row_numbers,
        )
        maskable = is_ordinary(rows, self.special)
        num_chosen = round_half_up_array(
            rate_at(self.config.mask_rate, progress), maskable.sum(axis=1)
        )
        halves = words.view(np.uint32)[:, :row_tokens]
        positions, used = choose_positions(halves, maskable, num_chosen, num_slots)
        return corrupt(
            rows, positions, used, words[:, words_to_choose:], self.config.corruption, self.special
        )


def choose_positions(
    words: NDArray[np.uint32],
    maskable: NDArray[np.bool_],
    num_chosen: NDArray[np.int64],
    num_slots: int,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """([n, K] ascending positions, [n, K] which slots are used): a uniform choice without return.

    The `num_chosen[i]` maskable positions with the smallest `words` [n, R] are chosen. The low bits
    of a word are replaced by its position, which makes sorting words an argsort; the random bits
    left (23 of 32 at 512 tokens, 19 at 8192) make ties too rare to shift any share by 1e-5.
    """
    row_tokens = words.shape[1]
    position_bits = np.uint32((1 << max(1, (row_tokens - 1).bit_length())) - 1)
    keys = (words & ~position_bits) | np.arange(row_tokens, dtype=np.uint32)
    keys[~maskable] = _LAST_KEY
    if num_slots < row_tokens:
        keys = np.partition(keys, num_slots - 1, axis=1)[:, :num_slots]
    keys = np.sort(keys, axis=1)
    used = np.arange(num_slots) < num_chosen[:, None]
    positions = (keys & position_bits).astype(np.int64)
    positions[~used] = row_tokens  # behind all others
    positions.sort(axis=1)
    positions[~used] = 0
    return positions, used


def corrupt(
    rows: NDArray[np.unsignedinteger],
    positions: NDArray[np.int64],
    used: NDArray[np.bool_],
    words: NDArray[np.uint64],
    corruption: Corruption,
    special: SpecialIds,
) -> MaskedRows:
    """`rows` with the tokens at the used `positions` replaced as `corruption` says.

    The high half of a slot's word [n, K] decides what happens, the low half draws the random id.
    """
    labels = np.take_along_axis(rows, positions, axis=1).astype(np.int64)
    action = (words >> np.uint64(32)).astype(np.int64)
    low = words & np.uint64(0xFFFFFFFF)
    random_ids = ((low * np.uint64(special.num_ordinary)) >> np.uint64(32)).astype(np.int64)
    mask_below = round(corruption.mask * 2**32)
    random_below = round((corruption.mask + corruption.random) * 2**32)
    new_ids = np.where(action < random_below, random_ids + special.first_ordinary, labels)
    new_ids[action < mask_below] = special.mask
    tokens = rows.copy()
    row_index = np.broadcast_to(np.arange(len(rows))[:, None], positions.shape)
    tokens[row_index[used], positions[used]] = new_ids[used]
    labels[~used] = UNUSED_LABEL
    return MaskedRows(tokens, positions, labels)


def is_ordinary(rows: NDArray[np.unsignedinteger], special: SpecialIds) -> NDArray[np.bool_]:
    """[n, R] bool: which tokens are none of the five special ones."""
    return (rows > special.unknown) & (rows < special.mask)


def check_ids(rows: NDArray[np.unsignedinteger], special: SpecialIds) -> None:
    """Raises ValueError that names the first row with an id outside of the vocabulary."""
    if rows.size and int(rows.max()) > special.mask:
        bad = int(np.argmax((rows > special.mask).any(axis=1)))
        raise ValueError(
            f"row {bad} of the batch holds the id {int(rows[bad].max())}, but the vocabulary ends "
            f"at {special.mask}: the rows were made with another tokenizer"
        )


def round_half_up(value: float) -> int:
    """The nearest integer to a `value` >= 0, halves going up (Python's round goes to even)."""
    return int(np.floor(value + 0.5))


def round_half_up_array(
    rate: float | NDArray[np.floating], counts: NDArray[np.integer]
) -> NDArray[np.int64]:
    """[n] the nearest integers to rate x counts, by the same rule as `round_half_up`."""
    return np.floor(rate * counts + 0.5).astype(np.int64)
