"""Training objectives: pure numpy functions of (rows, seed, pass, row numbers); one file each.

`ObjectiveConfig` is the union that a run's config chooses from. An objective that masks tokens is
added by a file with a `MaskingConfig` and an entry in `model.objectives.union`.
"""

from typing import Annotated

from pydantic import Field

from model.objectives.causal import CausalConfig
from model.objectives.masking import MaskedRows, Objective, ObjectiveSettings, RowsToMask
from model.objectives.mlm import MaskedLanguageModelConfig
from model.objectives.replaced_tokens import ReplacedTokensConfig
from model.objectives.union import MaskingObjective
from model.objectives.vocabulary import SpecialIds
from model.objectives.words import word_starts_of

ObjectiveConfig = Annotated[
    MaskingObjective | CausalConfig | ReplacedTokensConfig, Field(discriminator="type")
]
"""Every objective that a pretraining config may name under `type`."""

__all__ = [
    "CausalConfig",
    "MaskedLanguageModelConfig",
    "MaskedRows",
    "MaskingObjective",
    "Objective",
    "ObjectiveConfig",
    "ObjectiveSettings",
    "ReplacedTokensConfig",
    "RowsToMask",
    "SpecialIds",
    "word_starts_of",
]
