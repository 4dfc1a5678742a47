"""Multi-head self-attention with its heads sharded over tensor-parallel ranks.

B rows, S tokens in a row, T = B x S, H hidden, h heads of this rank (all heads / tp), d head size.
"""

import math

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.dropout import Site, apply_keep_mask, keep_mask, mask_seed
from model.layers import ColumnLinear, RowLinear
from model.parallel import Grid
from model.rows import RowContext


class SelfAttention(nn.Module):
    """[T(/tp), H] -> [T(/tp), H]; Q, K, V fused in one matrix with rows [heads, 3, d]."""

    def __init__(self, grid: Grid, config: ModelConfig) -> None:
        super().__init__()
        self.num_local_heads = config.num_attention_heads // grid.tp_size
        self.first_head = grid.tp_rank * self.num_local_heads
        self.head_size = config.head_size
        self.dropout = config.attention_dropout
        hidden = config.hidden_size
        self.qkv = ColumnLinear(grid, config.sequence_parallel, hidden, 3 * hidden)
        self.output = RowLinear(grid, config.sequence_parallel, hidden, hidden)

    def forward(self, x: Tensor, context: RowContext, layer: int) -> Tensor:
        rows, tokens = context.shape
        heads, size = self.num_local_heads, self.head_size
        qkv = self.qkv(x)  # [T, h * 3 * d]
        qkv = qkv.view(rows, tokens, heads, 3, size).permute(3, 2, 0, 1, 4)  # [3, h, B, S, d]
        query, key, value = qkv.contiguous().unbind(0)  # [h, B, S, d]
        if context.rotation is not None:
            query, key = rotate(query, context.rotation), rotate(key, context.rotation)
        kept = self._dropout_mask(context, layer) if self.training else None
        mixed = explicit_attention(query, key, value, context.bias, kept, self.dropout)
        mixed = mixed.permute(1, 2, 0, 3).reshape(rows * tokens, heads * size)  # [T, H/tp]
        return self.output(mixed)

    def _dropout_mask(self, context: RowContext, layer: int) -> Tensor | None:
        """[h, B, S, S]: each head's mask is keyed by its number among all heads."""
        if context.dropout_key is None or self.dropout == 0:
            return None
        rows, tokens = context.shape
        masks = [
            keep_mask(
                (rows, tokens, tokens),
                self.dropout,
                mask_seed(context.dropout_key, layer, Site.ATTENTION_PROBABILITIES, head),
                context.device,
            )
            for head in range(self.first_head, self.first_head + self.num_local_heads)
        ]
        return torch.stack(masks)


def explicit_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    kept: Tensor | None,
    dropout: float,
) -> Tensor:
    """softmax(Q K^T / sqrt(d) + bias) V, [h, B, S, d] from three of these.

    `bias` is broadcastable to [h, B, S, S]; `kept` [h, B, S, S] is the dropout mask, or None.
    """
    scores = torch.matmul(query * (1 / math.sqrt(query.shape[-1])), key.transpose(-1, -2))
    if bias is not None:
        scores = scores + bias
    probabilities = torch.softmax(scores, dim=-1)  # [h, B, S, S]
    if kept is not None:
        probabilities = apply_keep_mask(probabilities, kept, dropout)
    return torch.matmul(probabilities, value)  # [h, B, S, d]


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """`x` [h, B, S, d] turned by its position: (cosine, sine) are [B or 1, S, d/2].

    Pairs are (i, i + d/2), as in GPT-NeoX and Hugging Face's implementations.
    """
    cosine, sine = rotation
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
