"""The verdict on each text of a batch: kept, or the reason to drop it, with value and limit; and
what each filter measured of the texts, for statistics.

Legend: D documents of a batch.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

KEPT = ""
_MAX_REASON = 80
Flags = npt.NDArray[np.bool_]
F64 = npt.NDArray[np.float64]
Values = npt.NDArray[Any]
"""A number for each text: [D]."""
SAMPLED_WEIGHT = 32
"""Of the texts that an earlier filter drops, a filter that is costly measures one in so many."""


class Measured(NamedTuple):
    """What a filter measured of a batch, whether it dropped anything or not."""

    reason: str
    """Under which it drops texts."""
    is_least: bool
    """Whether the limits are the least values that are kept; else the greatest."""
    values: Values
    """[D]; NaN where the filter does not apply."""
    limits: Values | float
    """One, or [D]."""
    weights: Values | None
    """For how many texts each one stands: [D]; 0 where it was not measured. None: 1 for each."""


class Verdicts:
    """The first reason to drop each text, with value and limit."""

    def __init__(self, num_texts: int, *, apply: bool = True, sampled: Flags | None = None) -> None:
        """`apply`: whether filters drop texts, or only measure them. `sampled`: [D], texts that are
        measured even if an earlier filter drops them; None for no statistics."""
        self.names: list[str] = [KEPT]
        """KEPT and the reasons, at most 80 characters each, by their numbers."""
        self.codes: npt.NDArray[np.int32] = np.zeros(num_texts, dtype=np.int32)
        """The number of each text's reason: [D]."""
        self.values: F64 = np.full(num_texts, np.nan)
        """What the filter that drops it measured of each text: [D]. NaN where it is kept, or
        the reason is no number."""
        self.limits: F64 = np.full(num_texts, np.nan)
        """The limit that the value broke: [D]."""
        self.measured: list[Measured] = []
        """What each filter measured, if there are statistics."""
        self.languages: dict[str, int] = {}
        """How many texts were detected to be in each language, if there are statistics."""
        self.text_languages: dict[int, str] = {}
        """The language of every text that is kept, and of others, by their numbers, as
        detected or as set."""
        self.undecided: Flags = np.ones(num_texts, dtype=bool)
        """Whether each text is kept so far: [D]."""
        self._apply, self._sampled = apply, sampled

    @property
    def reasons(self) -> list[str]:
        """The reason to drop each text, or KEPT: [D]."""
        return [self.names[code] for code in self.codes.tolist()]

    @property
    def has_statistics(self) -> bool:
        """Whether `measured` is filled."""
        return self._sampled is not None

    @property
    def is_exact(self) -> bool:
        """Whether values are wanted even where they are sure to be inside the limit."""
        return not self._apply

    @property
    def to_measure(self) -> Flags:
        """Whether a costly filter has to measure each text: [D]."""
        return self.undecided.copy() if self._sampled is None else self.undecided | self._sampled

    @property
    def weights(self) -> Values | None:
        """For how many texts each of those `to_measure` stands: [D], 0 for the others; None if
        there are no statistics."""
        if self._sampled is None:
            return None
        weight = SAMPLED_WEIGHT if self._apply else 1
        return np.where(self.undecided, 1, np.where(self._sampled, weight, 0))

    def drop(self, reason: str, dropped: Flags) -> None:
        """Drops texts, [D], for a reason, except those that are dropped already."""
        if self._apply:
            self._set_reason(reason, self.undecided & dropped)

    def drop_empty(self, num_words: Values) -> None:
        """Drops the texts without words, [D], also where filters are not applied."""
        empty = num_words < 1
        self._set_reason("empty", empty)
        self.values[empty] = num_words[empty]
        self.limits[empty] = 1

    def drop_one(self, reason: str, number: int) -> None:
        """Drops one text, unless it is dropped already."""
        if self._apply and self.undecided[number]:
            self._set_reason(reason, number)

    def drop_below(
        self, reason: str, values: Values, limits: Values | float, weights: Any = None
    ) -> None:
        """Drops the texts whose value, [D], is under the limit (one, or one for each text).

        `weights`: `self.weights` when they were measured; None where all texts are.
        """
        self._note(reason, True, values, limits, weights)
        self._drop_by(reason, values < limits, values, limits)

    def drop_above(
        self, reason: str, values: Values, limits: Values | float, weights: Any = None
    ) -> None:
        """Drops the texts whose value, [D], is over the limit; see `drop_below`."""
        self._note(reason, False, values, limits, weights)
        self._drop_by(reason, values > limits, values, limits)

    def note_languages(self, languages: Mapping[int, str]) -> None:
        """Counts the languages of the texts `to_measure`, by their numbers."""
        weights = self.weights
        if weights is not None:
            for number, language in languages.items():
                self.languages[language] = self.languages.get(language, 0) + int(weights[number])

    def _note(
        self, reason: str, is_least: bool, values: Values, limits: Values | float, weights: Any
    ) -> None:
        if self._sampled is not None:
            self.measured.append(Measured(reason, is_least, values, limits, weights))

    def _drop_by(self, reason: str, dropped: Flags, values: Values, limits: Values | float) -> None:
        if not self._apply or not dropped.any():
            return
        dropped = dropped & self.undecided
        self._set_reason(reason, dropped)
        self.values[dropped] = values[dropped]
        self.limits[dropped] = np.broadcast_to(limits, dropped.shape)[dropped]

    def _set_reason(self, reason: str, texts: Flags | int) -> None:
        reason = reason[:_MAX_REASON]
        if reason not in self.names:
            self.names.append(reason)
        self.codes[texts] = self.names.index(reason)
        self.undecided[texts] = False
