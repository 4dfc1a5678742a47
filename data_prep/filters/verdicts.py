"""The verdict on each text of a batch: kept, or the reason to drop it, with value and limit.

Legend: D documents of a batch.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

KEPT = ""
Reasons = npt.NDArray[np.str_]
Flags = npt.NDArray[np.bool_]
F64 = npt.NDArray[np.float64]
Values = npt.NDArray[Any]
"""A number for each text: [D]."""


class Verdicts:
    """The first reason to drop each text, with value and limit."""

    def __init__(self, num_texts: int) -> None:
        self.reasons: Reasons = np.full(num_texts, KEPT, dtype="<U40")
        """The reason, at most 40 characters, or KEPT: [D]."""
        self.values: F64 = np.full(num_texts, np.nan)
        """What the filter that drops it measured of each text: [D]. NaN where it is kept, or
        the reason is no number."""
        self.limits: F64 = np.full(num_texts, np.nan)
        """The limit that the value broke: [D]."""

    @property
    def undecided(self) -> Flags:
        """Whether each text is kept so far: [D]. The others need not be measured any more."""
        undecided: Flags = self.reasons == KEPT
        return undecided

    def drop(self, reason: str, dropped: Flags) -> None:
        """Drops texts, [D], for a reason, except those that are dropped already."""
        self.reasons[self.undecided & dropped] = reason

    def drop_below(self, reason: str, values: Values, limits: Values | float) -> None:
        """Drops the texts whose value, [D], is under the limit (one, or one for each text)."""
        self._drop_by(reason, values < limits, values, limits)

    def drop_above(self, reason: str, values: Values, limits: Values | float) -> None:
        """Drops the texts whose value, [D], is over the limit (one, or one for each text)."""
        self._drop_by(reason, values > limits, values, limits)

    def _drop_by(self, reason: str, dropped: Flags, values: Values, limits: Values | float) -> None:
        if not dropped.any():
            return
        dropped = dropped & self.undecided
        self.reasons[dropped] = reason
        self.values[dropped] = values[dropped]
        self.limits[dropped] = np.broadcast_to(limits, dropped.shape)[dropped]
