"""What an objective knows of the vocabulary: special ids and where words start. No torch."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

_FIRST_ORDINARY_OF_ROBERTA = 4


@dataclass(frozen=True)
class SpecialIds:
    """The ids of the special tokens; all other ids are ordinary. V vocabulary."""

    begin: int
    pad: int
    end: int
    unknown: int | None
    mask: int
    vocab_size: int
    """V: the highest id + 1."""
    others: tuple[tuple[int, int], ...] = ()
    """Ranges [first, end) of further ids that are neither masked nor drawn: more special tokens,
    unused ones, and ids without a token."""

    @classmethod
    def of(cls, vocab_size: int) -> "SpecialIds":
        """RoBERTa's places: ``<s> <pad> </s> <unk>`` are 0 to 3 and ``<mask>`` is the last id.

        Raises ValueError if `vocab_size` leaves no ordinary id.
        """
        if vocab_size < _FIRST_ORDINARY_OF_ROBERTA + 2:
            raise ValueError(
                f"a vocabulary of {vocab_size} ids has no ordinary token beside the 5 special ones"
            )
        return cls(begin=0, pad=1, end=2, unknown=3, mask=vocab_size - 1, vocab_size=vocab_size)

    @cached_property
    def is_ordinary(self) -> NDArray[np.bool_]:
        """[V] which ids are ordinary."""
        result = np.ones(self.vocab_size, dtype=bool)
        ids = (self.begin, self.pad, self.end, self.unknown, self.mask)
        result[[number for number in ids if number is not None]] = False
        for first, end in self.others:
            result[first:end] = False
        return result

    @cached_property
    def ordinary_ids(self) -> NDArray[np.int64]:
        """The ordinary ids in ascending order."""
        return np.flatnonzero(self.is_ordinary)

    @cached_property
    def _is_one_range(self) -> bool:
        ids = self.ordinary_ids
        return bool(ids[-1] - ids[0] == len(ids) - 1)

    def are_ordinary(self, rows: NDArray[np.unsignedinteger]) -> NDArray[np.bool_]:
        """Which of the ids of `rows` are ordinary, of the shape of `rows`."""
        result: NDArray[np.bool_]
        if self._is_one_range:  # faster than a table
            result = (rows >= self.ordinary_ids[0]) & (rows <= self.ordinary_ids[-1])
        else:
            result = self.is_ordinary[rows]
        return result

    def random_ids(self, words: NDArray[np.uint64]) -> NDArray[np.int64]:
        """An ordinary id for each of `words`, uniform numbers below 2^32."""
        count = np.uint64(len(self.ordinary_ids))
        places = ((words * count) >> np.uint64(32)).astype(np.int64)
        ids = self.ordinary_ids
        result: NDArray[np.int64] = places + ids[0] if self._is_one_range else ids[places]
        return result


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary that an objective masks rows of."""

    special: SpecialIds
    word_starts: NDArray[np.bool_] | None = None
    """[V] which tokens start a word; given to objectives that read words."""
