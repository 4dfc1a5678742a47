"""Causal language modelling: every token predicts the next one and sees none after itself."""

from typing import ClassVar, Literal

import numpy as np

from model.objectives.choice import positions_of
from model.objectives.masking import UNUSED_LABEL, MaskedRows, ObjectiveSettings, RowsToMask
from model.objectives.vocabulary import Vocabulary


class CausalConfig(ObjectiveSettings):
    """Next-token prediction with the weights and the head of masked language modelling.

    All tokens are predicted but padding and the token that starts a document: that one follows the
    end of another document. The token that ends a document is predicted.
    """

    IS_CAUSAL: ClassVar[bool] = True

    type: Literal["causal"] = "causal"

    def num_slots(self, row_tokens: int) -> int:
        """K, the label slots of a row: the last token has no next one."""
        return max(1, row_tokens - 1)

    def mask(self, batch: RowsToMask, vocabulary: Vocabulary) -> MaskedRows:
        special, rows = vocabulary.special, batch.rows
        following = np.zeros(rows.shape, np.int64)
        following[:, :-1] = rows[:, 1:]
        is_predicted = (following != special.pad) & (rows != special.pad)
        if special.begin != special.end:
            is_predicted &= following != special.begin
        is_predicted[:, -1] = False
        positions, used = positions_of(is_predicted, self.num_slots(rows.shape[1]))
        labels = np.where(used, np.take_along_axis(following, positions, axis=1), UNUSED_LABEL)
        return MaskedRows(rows, positions, labels)
