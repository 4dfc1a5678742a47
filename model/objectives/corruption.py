"""What becomes of the tokens that are chosen to be predicted.

n rows, R tokens in a row, K label slots of a row.
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from configs.load import Config
from model.objectives.vocabulary import SpecialIds


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


def corrupt(
    rows: NDArray[np.unsignedinteger],
    positions: NDArray[np.int64],
    used: NDArray[np.bool_],
    words: NDArray[np.uint64],
    corruption: Corruption,
    special: SpecialIds,
) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
    """([n, R] `rows` with the tokens at the used `positions` replaced, [n, K] the original ids).

    `words` [n, K] are random: the high half of a word decides what becomes of its token, the low
    half draws the random id. Original ids of unused slots mean nothing.
    """
    original = np.take_along_axis(rows, positions, axis=1).astype(np.int64)
    action = (words >> np.uint64(32)).astype(np.int64)
    low = words & np.uint64(0xFFFFFFFF)
    mask_below = round(corruption.mask * 2**32)
    random_below = round((corruption.mask + corruption.random) * 2**32)
    new_ids = np.where(action < random_below, special.random_ids(low), original)
    new_ids[action < mask_below] = special.mask
    tokens = rows.copy()
    row_index = np.broadcast_to(np.arange(len(rows))[:, None], positions.shape)
    tokens[row_index[used], positions[used]] = new_ids[used]
    return tokens, original
