"""What one data-parallel rank computes in one optimizer step.

Shapes: A micro-batches a step and rank (gradient accumulation), B rows a micro-batch, S tokens a
row, K label slots a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from model.config import MLM_HEAD
from pipeline.data.position import StepRange


@dataclass(frozen=True)
class StepBatch:
    """What one data-parallel rank computes in one optimizer step."""

    tokens: torch.Tensor
    """uint16 or uint32 [A, B, S], as on disk: the rows with their masks."""
    positions: torch.Tensor
    """int32 [A, B, K]: positions of each row that predict a token, see `MaskedRows`."""
    labels: torch.Tensor
    """int32 [A, B, K]: the tokens that they predict; -100 in unused slots."""
    dropout_keys: tuple[int, ...]
    """A keys, one for each micro-batch; a function of (seed, position of its first row)."""
    step: StepRange
    """The rows of the global batch, as positions in the stream of its phase."""
    phase: int
    """Number of its phase, from 0."""
    consumed_rows: int
    """The position of the run after this batch."""
    is_causal: bool = False
    """Whether no token may see a later one."""
    sample_keys: torch.Tensor | None = None
    """int64 [A, B]: random words of rows whose replacements the network draws."""
    head_weights: Mapping[str, float] = field(default_factory=lambda: {MLM_HEAD: 1.0})
    """The factor on the mean loss of each head."""
