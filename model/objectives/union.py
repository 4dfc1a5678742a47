"""The objectives that mask tokens, as one union: an objective is added here."""

from typing import Annotated

from pydantic import Field

from model.objectives.mlm import MaskedLanguageModelConfig
from model.objectives.published import PublishedMaskingConfig
from model.objectives.span import SpanMaskingConfig
from model.objectives.static import StaticMaskingConfig
from model.objectives.whole_word import WholeWordMaskingConfig

MaskingObjective = Annotated[
    MaskedLanguageModelConfig
    | StaticMaskingConfig
    | WholeWordMaskingConfig
    | SpanMaskingConfig
    | PublishedMaskingConfig,
    Field(discriminator="type"),
]
"""Every way to mask tokens that a config may name under `type`."""
