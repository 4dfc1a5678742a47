"""Static masking: the same masks in every pass, or a fixed number of maskings in turn.

For comparison with BERT, whose rows were masked ten times in advance (Liu et al. 2019, section
4.1).
"""

from dataclasses import replace
from typing import Literal

from pydantic import Field

from model.objectives.masking import MaskedRows, MaskingConfig, RowsToMask
from model.objectives.mlm import mask_share
from model.objectives.vocabulary import Vocabulary


class StaticMaskingConfig(MaskingConfig):
    """As "mlm", but epoch p is masked as epoch p modulo `num_maskings`."""

    type: Literal["static"] = "static"
    num_maskings: int = Field(1, gt=0)
    """Different maskings of a row; BERT used 10."""

    def mask(self, batch: RowsToMask, vocabulary: Vocabulary) -> MaskedRows:
        batch = replace(batch, passes=batch.passes % self.num_maskings)
        return mask_share(self, batch, vocabulary)
