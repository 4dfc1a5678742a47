"""What the layers must know of a micro-batch of rows beside its hidden states.

B rows, S tokens in a row.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import ModelConfig


@dataclass(frozen=True)
class RowContext:
    """Computed once per forward pass and read by every layer."""

    shape: tuple[int, int]
    """(B, S)."""
    device: torch.device
    dropout_key: int | None
    """None: no dropout."""
    positions: Tensor | None
    """[B, S] position of each token, None where every row counts 0, 1, 2, ..."""
    bias: Tensor | None
    """Added to the attention scores, broadcastable to [h, B, S, S]; None: all see all."""
    rotation: tuple[Tensor, Tensor] | None
    """Cosines and sines of rotary positions, [B or 1, S, d/2] each."""


def make_row_context(
    config: ModelConfig, tokens: Tensor, dropout_key: int | None, dtype: torch.dtype
) -> RowContext:
    """The context of `tokens` [B, S]."""
    is_pad = tokens == config.pad_token_id
    bias = None
    if bool(is_pad.any()):
        bias = torch.zeros(tokens.shape, dtype=dtype, device=tokens.device)
        bias = bias.masked_fill(is_pad, torch.finfo(dtype).min)[:, None, :]  # [B, 1, S]
    rotation = None
    if config.positions.type == "rotary":
        places = torch.arange(tokens.shape[1], device=tokens.device)[None]
        rotation = rotation_of(places, config.head_size, config.positions.base, dtype)
    return RowContext(
        shape=(tokens.shape[0], tokens.shape[1]),
        device=tokens.device,
        dropout_key=dropout_key,
        positions=None,
        bias=bias,
        rotation=rotation,
    )


def rotation_of(
    positions: Tensor, head_size: int, base: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(cosine, sine), [..., S, d/2] each, of `positions` [..., S] (Su et al. 2021, equation 15)."""
    exponents = torch.arange(0, head_size, 2, device=positions.device, dtype=torch.float32)
    angles = positions[..., None].float() * base ** (-exponents / head_size)
    return angles.cos().to(dtype), angles.sin().to(dtype)
