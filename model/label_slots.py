"""Reading and writing rows at their label slots.

B rows, S tokens in a row, T = B x S, K label slots of a row, N = B x K, H hidden.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Slots:
    """The tokens at the label slots of a micro-batch."""

    tokens: Tensor
    """[N] int64: their numbers among the T tokens of all rows; the same one several times where
    slots are unused."""
    num_tokens: int
    """T."""

    def of(self, x: Tensor) -> Tensor:
        """[N, ...] of `x` [T, ...]."""
        return x.index_select(0, self.tokens)


def find_slots(positions: Tensor, num_tokens: int) -> Slots:
    """Those at `positions` [B, K] of rows with `num_tokens` tokens together."""
    rows = positions.shape[0]
    first = torch.arange(rows, device=positions.device) * (num_tokens // rows)
    return Slots((positions + first[:, None]).view(-1), num_tokens)


def at_slots(hidden: Tensor, positions: Tensor) -> Tensor:
    """[N, H]: the hidden states [T, H] at `positions` [B, K]."""
    return find_slots(positions, hidden.shape[0]).of(hidden)


def with_values(tokens: Tensor, positions: Tensor, labels: Tensor, values: Tensor) -> Tensor:
    """[B, S]: `tokens` with `values` [B, K] at the `positions` of used slots."""
    row_tokens = tokens.shape[1]
    with_spare = F.pad(tokens, (0, 1))  # unused slots write after the row
    places = torch.where(labels >= 0, positions, row_tokens)
    return with_spare.scatter(1, places, values.clamp(min=0))[:, :row_tokens]
