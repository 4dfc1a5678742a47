"""Training objectives: pure numpy functions of (rows, seed, pass, row numbers); one file each.

`ObjectiveConfig` is the union that a run's config chooses from. An objective is added by a file
with a `MaskingConfig` and an entry in the union.
"""

from typing import Annotated

from pydantic import Field

from model.objectives.masking import MaskedRows, Objective, RowsToMask
from model.objectives.mlm import MaskedLanguageModelConfig
from model.objectives.published import PublishedMaskingConfig
from model.objectives.span import SpanMaskingConfig
from model.objectives.static import StaticMaskingConfig
from model.objectives.vocabulary import SpecialIds
from model.objectives.whole_word import WholeWordMaskingConfig
from model.objectives.words import word_starts_of

ObjectiveConfig = Annotated[
    MaskedLanguageModelConfig
    | StaticMaskingConfig
    | WholeWordMaskingConfig
    | SpanMaskingConfig
    | PublishedMaskingConfig,
    Field(discriminator="type"),
]
"""Every objective that a config may name under `type`."""

__all__ = [
    "MaskedLanguageModelConfig",
    "MaskedRows",
    "Objective",
    "ObjectiveConfig",
    "RowsToMask",
    "SpecialIds",
    "word_starts_of",
]
