"""Masking as in RoBERTa's published code: special tokens may be chosen, the count is random.

fairseq's MaskTokensDataset draws floor(rate x length + u) positions of all of the row, u uniform in
[0, 1); random replacements are never special tokens. Many other implementations choose each
position by itself ("bernoulli").
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from configs.load import Config
from model.objectives.mlm import (
    Corruption,
    MaskedRows,
    MaskRate,
    check_ids,
    choose_positions,
    corrupt,
    highest_rate,
    is_ordinary,
    rate_at,
)
from model.objectives.philox import row_words
from model.objectives.vocabulary import SpecialIds


class PublishedMaskingConfig(Config):
    """Masks whose number varies from row to row, of all tokens but padding."""

    type: Literal["published"] = "published"
    mask_rate: MaskRate = 0.15
    """Share of a row's tokens that is chosen."""
    corruption: Corruption = Corruption()
    """What becomes of the chosen tokens."""
    choice: Literal["count", "bernoulli"] = "count"
    """count: floor(rate x tokens + u) of them (fairseq); bernoulli: each one by itself."""
    special_tokens: bool = True
    """Whether <s>, </s> and <unk> may be chosen, as they were for RoBERTa."""

    def num_slots(self, row_tokens: int) -> int:
        """K, the label slots of a row; for "bernoulli" 7 standard deviations above the mean."""
        rate = highest_rate(self.mask_rate)
        spread = 7 * np.sqrt(rate * (1 - rate) * row_tokens) if self.choice == "bernoulli" else 1
        return int(min(row_tokens, np.ceil(rate * row_tokens + spread)))

    def build(
        self, vocab_size: int, word_starts: NDArray[np.bool_] | None = None
    ) -> "PublishedMaskingObjective":
        """The objective for a vocabulary of `vocab_size` ids in RoBERTa's layout."""
        return PublishedMaskingObjective(self, SpecialIds.of(vocab_size))


@dataclass(frozen=True)
class PublishedMaskingObjective:
    """Masks rows; a pure function of (rows, seed, pass, source, row number)."""

    config: PublishedMaskingConfig
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
        """The masked `rows` [n, R]; arguments as for `MaskedLanguageModelObjective.mask_rows`."""
        num_rows, row_tokens = rows.shape
        check_ids(rows, self.special)
        num_slots = self.config.num_slots(row_tokens)
        words_to_choose = -(-row_tokens // 2)
        words = row_words(
            words_to_choose + num_slots + 1,
            seed=seed,
            passes=passes,
            sources=np.zeros(num_rows, np.int64) if sources is None else sources,
            row_numbers=row_numbers,
        )
        halves = words.view(np.uint32)[:, :row_tokens]
        maskable = rows != self.special.pad
        if not self.config.special_tokens:
            maskable = is_ordinary(rows, self.special)
        rate = np.broadcast_to(rate_at(self.config.mask_rate, progress), (num_rows,))
        if self.config.choice == "bernoulli":
            below = halves < (rate * 2.0**32)[:, None]
            num_chosen = np.minimum((below & maskable).sum(axis=1), num_slots)
        else:
            uniform = (words[:, -1] >> np.uint64(11)).astype(np.float64) * 2.0**-53
            num_chosen = np.floor(rate * maskable.sum(axis=1) + uniform).astype(np.int64)
        positions, used = choose_positions(halves, maskable, num_chosen, num_slots)
        slots = words[:, words_to_choose : words_to_choose + num_slots]
        return corrupt(rows, positions, used, slots, self.config.corruption, self.special)
