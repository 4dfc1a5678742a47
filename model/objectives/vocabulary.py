"""What an objective knows of the vocabulary: special ids and where words start. No torch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_LEADING_SPECIAL_IDS = 4


@dataclass(frozen=True)
class SpecialIds:
    """The ids of RoBERTa's five special tokens; all ids from `unknown` to `mask` are ordinary."""

    begin: int
    pad: int
    end: int
    unknown: int
    mask: int

    @classmethod
    def of(cls, vocab_size: int) -> "SpecialIds":
        """RoBERTa's places: ``<s> <pad> </s> <unk>`` are 0 to 3 and ``<mask>`` is the last id.

        Raises ValueError if `vocab_size` leaves no ordinary id.
        """
        if vocab_size < NUM_LEADING_SPECIAL_IDS + 2:
            raise ValueError(
                f"a vocabulary of {vocab_size} ids has no ordinary token beside the 5 special ones"
            )
        return cls(begin=0, pad=1, end=2, unknown=3, mask=vocab_size - 1)

    @property
    def first_ordinary(self) -> int:
        """The lowest id of an ordinary token."""
        return self.unknown + 1

    @property
    def num_ordinary(self) -> int:
        """How many ordinary tokens there are: the ids from `first_ordinary` up to `mask`."""
        return self.mask - self.first_ordinary


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary that an objective masks rows of."""

    special: SpecialIds
    word_starts: NDArray[np.bool_] | None = None
    """[V] which tokens start a word; given to objectives that read words."""
