"""Masked language modelling with dynamic masks: every pass over a row draws new ones."""

from typing import Literal

import numpy as np

from model.objectives.choice import choose_positions, round_half_up_array
from model.objectives.masking import MaskedRows, MaskingConfig, RowsToMask
from model.objectives.vocabulary import Vocabulary


class MaskedLanguageModelConfig(MaskingConfig):
    """Dynamic masking (Liu et al. 2019, section 4.1), with exactly round(rate x maskable) a row."""

    type: Literal["mlm"] = "mlm"

    def mask(self, batch: RowsToMask, vocabulary: Vocabulary) -> MaskedRows:
        return mask_share(self, batch, vocabulary)


def mask_share(config: MaskingConfig, batch: RowsToMask, vocabulary: Vocabulary) -> MaskedRows:
    """The rows with a uniform choice of exactly the configured share of their ordinary tokens."""
    row_tokens = batch.rows.shape[1]
    num_slots = config.num_slots(row_tokens)
    words_to_choose = -(-row_tokens // 2)
    words = batch.words(words_to_choose + num_slots)
    maskable = batch.ordinary(vocabulary.special)
    num_chosen = round_half_up_array(batch.rate(config.mask_rate), maskable.sum(axis=1))
    halves = words.view(np.uint32)[:, :row_tokens]
    positions, used = choose_positions(halves, maskable, num_chosen, num_slots)
    return config.masked(batch, positions, used, words[:, words_to_choose:], vocabulary)
