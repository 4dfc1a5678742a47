"""Static masking: the same masks in every pass, or a fixed number of maskings in turn.

For comparison with BERT, whose rows were masked ten times in advance (Liu et al. 2019, section
4.1).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from configs.load import Config
from model.objectives.mlm import (
    Corruption,
    MaskedLanguageModelConfig,
    MaskedLanguageModelObjective,
    MaskedRows,
    MaskRate,
)


class StaticMaskingConfig(Config):
    """As "mlm", but pass p over the data is masked as pass p modulo `num_maskings`."""

    type: Literal["static"] = "static"
    mask_rate: MaskRate = 0.15
    """Share of a row's ordinary tokens that is chosen."""
    corruption: Corruption = Corruption()
    """What becomes of the chosen tokens."""
    num_maskings: int = Field(1, gt=0)
    """Different maskings of a row; BERT used 10."""

    def num_slots(self, row_tokens: int) -> int:
        """K, the label slots of a row of `row_tokens` tokens."""
        return self._dynamic().num_slots(row_tokens)

    def build(
        self, vocab_size: int, word_starts: NDArray[np.bool_] | None = None
    ) -> "StaticMaskingObjective":
        """The objective for a vocabulary of `vocab_size` ids in RoBERTa's layout."""
        return StaticMaskingObjective(self._dynamic().build(vocab_size), self.num_maskings)

    def _dynamic(self) -> MaskedLanguageModelConfig:
        return MaskedLanguageModelConfig(mask_rate=self.mask_rate, corruption=self.corruption)


@dataclass(frozen=True)
class StaticMaskingObjective:
    """Masks rows; a pure function of (rows, seed, pass modulo maskings, source, row number)."""

    dynamic: MaskedLanguageModelObjective
    num_maskings: int

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
        return self.dynamic.mask_rows(
            rows,
            seed=seed,
            passes=passes % self.num_maskings,
            row_numbers=row_numbers,
            sources=sources,
            progress=progress,
        )
