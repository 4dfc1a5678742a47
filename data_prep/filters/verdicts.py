"""The verdict on each text of a batch: kept, or the reason why it is dropped.

Legend: D documents of a batch.
"""

import numpy as np
import numpy.typing as npt

KEPT = ""
Reasons = npt.NDArray[np.str_]
Flags = npt.NDArray[np.bool_]


class Verdicts:
    """The first reason to drop each text."""

    def __init__(self, num_texts: int) -> None:
        self.reasons: Reasons = np.full(num_texts, KEPT, dtype="<U40")
        """The reason, at most 40 characters, or KEPT: [D]."""

    @property
    def undecided(self) -> Flags:
        """Whether each text is kept so far: [D]. The others need not be measured any more."""
        undecided: Flags = self.reasons == KEPT
        return undecided

    def drop(self, reason: str, dropped: Flags) -> None:
        """Drops texts, [D], for a reason, except those that are dropped already."""
        self.reasons[self.undecided & dropped] = reason
