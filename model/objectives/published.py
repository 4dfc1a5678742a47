"""Masking as in RoBERTa's published code: special tokens may be chosen, the count is random.

fairseq's MaskTokensDataset draws floor(rate x length + u) positions of all of the row, u uniform in
[0, 1); random replacements are never special tokens. Many other implementations choose each
position by itself ("bernoulli").
"""

from typing import Literal

import numpy as np

from model.objectives.choice import choose_positions
from model.objectives.mask_rate import highest_rate
from model.objectives.masking import MaskedRows, MaskingConfig, RowsToMask
from model.objectives.vocabulary import Vocabulary


class PublishedMaskingConfig(MaskingConfig):
    """Masks whose number varies from row to row, of all tokens but padding."""

    type: Literal["published"] = "published"
    choice: Literal["count", "bernoulli"] = "count"
    """count: floor(rate x tokens + u) of them (fairseq); bernoulli: each one by itself."""
    special_tokens: bool = True
    """Whether <s>, </s> and <unk> may be chosen, as they were for RoBERTa."""

    def num_slots(self, row_tokens: int) -> int:
        """K, the label slots of a row; for "bernoulli" 7 standard deviations above the mean."""
        rate = highest_rate(self.mask_rate)
        spread = 7 * np.sqrt(rate * (1 - rate) * row_tokens) if self.choice == "bernoulli" else 1
        return int(min(row_tokens, np.ceil(rate * row_tokens + spread)))

    def mask(self, batch: RowsToMask, vocabulary: Vocabulary) -> MaskedRows:
        num_rows, row_tokens = batch.rows.shape
        num_slots = self.num_slots(row_tokens)
        words_to_choose = -(-row_tokens // 2)
        words = batch.words(words_to_choose + num_slots + 1)
        halves = words.view(np.uint32)[:, :row_tokens]
        maskable = batch.rows != vocabulary.special.pad
        if not self.special_tokens:
            maskable = batch.ordinary(vocabulary.special)
        rate = np.broadcast_to(batch.rate(self.mask_rate), (num_rows,))
        if self.choice == "bernoulli":
            below = halves < (rate * 2.0**32)[:, None]
            num_chosen = np.minimum((below & maskable).sum(axis=1), num_slots)
        else:
            uniform = (words[:, -1] >> np.uint64(11)).astype(np.float64) * 2.0**-53
            num_chosen = np.floor(rate * maskable.sum(axis=1) + uniform).astype(np.int64)
        positions, used = choose_positions(halves, maskable, num_chosen, num_slots)
        slots = words[:, words_to_choose : words_to_choose + num_slots]
        return self.masked(batch, positions, used, slots, vocabulary)
