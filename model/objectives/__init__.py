"""Training objectives: pure numpy functions of (rows, seed, pass, row numbers); one file each.

`ObjectiveConfig` is the union that a run's config chooses from; `Objective` is what they build.
"""

from typing import Annotated, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from model.objectives.mlm import MaskedLanguageModelConfig, MaskedRows
from model.objectives.published import PublishedMaskingConfig
from model.objectives.span import SpanMaskingConfig
from model.objectives.static import StaticMaskingConfig
from model.objectives.whole_word import WholeWordMaskingConfig, word_starts_of

ObjectiveConfig = Annotated[
    MaskedLanguageModelConfig
    | StaticMaskingConfig
    | WholeWordMaskingConfig
    | SpanMaskingConfig
    | PublishedMaskingConfig,
    Field(discriminator="type"),
]
"""Every objective that a config may name under `type`."""


class Objective(Protocol):
    """Turns rows into what the network gets and must predict."""

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
        """The masked `rows` [n, R]; `passes`, `row_numbers`, `sources` are [n].

        `progress` in training, from 0 to 1 (one number, or [n]), is for mask-rate schedules.
        """


__all__ = [
    "MaskedLanguageModelConfig",
    "MaskedRows",
    "Objective",
    "ObjectiveConfig",
    "word_starts_of",
]
