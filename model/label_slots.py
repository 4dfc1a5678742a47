"""Reading and writing rows at their label slots.

B rows, S tokens in a row, T = B x S, K label slots of a row, N = B x K, H hidden.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def at_slots(hidden: Tensor, positions: Tensor) -> Tensor:
    """[N, H]: the hidden states [T, H] at `positions` [B, K]."""
    rows = positions.shape[0]
    first = torch.arange(rows, device=positions.device) * (hidden.shape[0] // rows)
    return hidden.index_select(0, (positions + first[:, None]).view(-1))


def with_values(tokens: Tensor, positions: Tensor, labels: Tensor, values: Tensor) -> Tensor:
    """[B, S]: `tokens` with `values` [B, K] at the `positions` of used slots."""
    row_tokens = tokens.shape[1]
    with_spare = F.pad(tokens, (0, 1))  # unused slots write after the row
    places = torch.where(labels >= 0, positions, row_tokens)
    return with_spare.scatter(1, places, values.clamp(min=0))[:, :row_tokens]
