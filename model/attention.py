"""Multi-head self-attention with its heads sharded over tensor-parallel ranks.

B rows, S tokens in a row, T = B x S, H hidden, d head size; of this rank (all / tp): h query heads,
k key/value heads, each of which serves g = h / k query heads (Ainslie et al. 2023; g = 1: each has
its own).
"""

import functools
import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention_masks import AttentionMask, Backend
from model.config import ModelConfig
from model.dropout import Site, apply_keep_mask, draw_keep_mask, mask_seed, seeded
from model.layers import ColumnLinear, Norm, RowLinear
from model.parallel.grid import Grid
from model.rotary import Rotation, rotate, split_and_rotate
from model.row_context import RowContext


class SelfAttention(nn.Module):
    """[T(/tp), H] -> [T(/tp), H]; Q, K, V fused in one matrix with rows [k, g + 2, d]."""

    def __init__(self, grid: Grid, config: ModelConfig) -> None:
        super().__init__()
        self.num_local_heads = grid.local_size(config.num_attention_heads)
        self.num_local_groups = grid.local_size(config.key_value_heads)
        self.first_head = grid.tp_rank * self.num_local_heads
        self.head_size = size = config.head_size
        self.group_heads = config.num_attention_heads // config.key_value_heads
        self.follow(config)
        hidden = config.hidden_size
        has_bias = config.bias.attention
        out_size = (config.num_attention_heads + 2 * config.key_value_heads) * size
        matrices = (self.group_heads * size, size, size)
        self.qkv = ColumnLinear(grid, hidden, out_size, has_bias, matrices)
        self.output = RowLinear(grid, hidden, hidden, has_bias)
        self.query_norm = self.key_norm = None
        if config.query_key_norm:
            self.query_norm = Norm(grid, config, size, of_local_heads=True)
            self.key_norm = Norm(grid, config, size, of_local_heads=True)

    def follow(self, config: ModelConfig) -> None:
        """Takes over the settings of a phase."""
        self.window = config.attention_pattern.window
        self.rate = config.attention_dropout

    def forward(self, x: Tensor, context: RowContext, layer: int) -> Tensor:
        rows, tokens = context.shape
        groups, size = self.num_local_groups, self.head_size
        qkv = self.qkv(x).view(rows, tokens, groups, -1, size)  # [B, S, k, g + 2, d]
        window = self.window(layer)
        rotation = None if context.rotations is None else context.rotations[window]
        query, key, value = self._heads(qkv, context.masks[window].backend, rotation)
        mixed = self._mix(query, key, value, context, layer)  # [h, B, S, d]
        mixed = mixed.permute(1, 2, 0, 3).reshape(rows * tokens, -1)  # [T, H/tp]
        result: Tensor = self.output(mixed)
        return result

    def _heads(
        self, qkv: Tensor, backend: Backend, rotation: Rotation | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [h, B, S, d], keys and values [k, B, S, d]; normalised and rotated."""
        is_plain = self.group_heads == 1 and self.query_norm is None and backend == "explicit"
        if is_plain and rotation is not None:
            return split_and_rotate(qkv, rotation)
        query, key, value = self._split(qkv, backend)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        return query, key, value

    def _split(self, qkv: Tensor, backend: Backend) -> tuple[Tensor, Tensor, Tensor]:
        if self.group_heads > 1:
            query, key, value = torch.split(qkv, [self.group_heads, 1, 1], dim=3)
            query = query.permute(2, 3, 0, 1, 4).flatten(0, 1)  # [h, B, S, d]
            key, value = (part.squeeze(3).permute(2, 0, 1, 3) for part in (key, value))
            return query, key, value
        if backend == "sdpa":
            # Its kernels read this layout; explicit and flex need a head's tokens contiguous.
            query, key, value = (part.permute(2, 0, 1, 3) for part in qkv.unbind(3))
        else:
            query, key, value = qkv.permute(3, 2, 0, 1, 4).contiguous().unbind(0)
        return query, key, value

    def _mix(
        self, query: Tensor, key: Tensor, value: Tensor, context: RowContext, layer: int
    ) -> Tensor:
        mask = context.masks[self.window(layer)]
        rate = 0.0 if context.dropout_key is None else self.rate
        if mask.backend == "flex":
            return flex_attention(query, key, value, mask)
        # The other kernels know no groups, or are slow with them and a mask.
        key, value = (repeated(part, self.group_heads) for part in (key, value))  # [h, B, S, d]
        if mask.backend == "explicit":
            kept = self._keep_mask(context, layer) if rate else None
            # Dropout's scale goes to the smaller of the two factors.
            value = value * (1 / (1 - rate)) if rate else value
            return explicit_attention(query, key, value, mask.bias, kept)
        seed = None
        if rate:
            assert context.dropout_key is not None
            # One seed for all heads of the rank: the kernel draws one mask for them.
            key_of = (context.dropout_key, layer, Site.ATTENTION_PROBABILITIES)
            seed = mask_seed(*key_of, self.first_head)
        return sdpa_attention(query, key, value, mask.allowed, rate, seed, mask.is_causal)

    def _keep_mask(self, context: RowContext, layer: int) -> Tensor:
        """[h, B, S, S]: each head's mask is keyed by its number among all heads."""
        assert context.dropout_key is not None
        rows, tokens = context.shape
        shape = (self.num_local_heads, rows, tokens, tokens)
        mask = torch.empty(shape, dtype=torch.int16, device=context.device)
        for place in range(self.num_local_heads):
            head = self.first_head + place
            seed = mask_seed(context.dropout_key, layer, Site.ATTENTION_PROBABILITIES, head)
            draw_keep_mask(mask[place], self.rate, seed)
        return mask


def repeated(x: Tensor, times: int) -> Tensor:
    """[k x times, B, S, d] of [k, B, S, d]: each head as often, one after the other."""
    return x if times == 1 else x.repeat_interleave(times, dim=0)


def explicit_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    kept: Tensor | None,
) -> Tensor:
    """(softmax(Q K^T / sqrt(d) + bias) where kept) V, [h, B, S, d] from three of these.

    `bias` is broadcastable to [h, B, S, S]; `kept` [h, B, S, S] is the dropout mask, or None; its
    scale 1 / (1 - rate) is the caller's, in `value`.
    """
    scores = torch.matmul(query * (1 / math.sqrt(query.shape[-1])), key.transpose(-1, -2))
    if bias is not None:
        scores = scores + bias
    probabilities = torch.softmax(scores, dim=-1)  # [h, B, S, S]
    if kept is not None:
        probabilities = apply_keep_mask(probabilities, kept)
    return torch.matmul(probabilities, value)  # [h, B, S, d]


def sdpa_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    allowed: Tensor | None,
    dropout: float,
    seed: int | None,
    is_causal: bool = False,
) -> Tensor:
    """The same through torch's scaled_dot_product_attention, [h, B, S, d].

    `is_causal` stands for the mask of tokens that see all of their row up to themselves.

    Its dropout draws from torch's global generator, which is set to `seed` and put back; the
    masks therefore depend on the TP size, unlike those of the explicit backend.
    """
    query, key, value = (x.transpose(0, 1) for x in (query, key, value))  # [B, h, S, d]
    mask = None if allowed is None else allowed[:, None]  # [B or 1, 1, S or 1, S]
    mix = partial(F.scaled_dot_product_attention, query, key, value, mask, is_causal=is_causal)
    if seed is None:
        return mix().transpose(0, 1)
    with seeded(query.device, seed):
        mixed = mix(dropout_p=dropout)
    return mixed.transpose(0, 1)


def flex_attention(query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask) -> Tensor:
    """The same through FlexAttention, which skips blocks that the mask empties; no dropout.

    `key` and `value` may have fewer heads, each for as many consecutive heads of `query`.
    """
    query, key, value = (x.transpose(0, 1) for x in (query, key, value))  # [B, h, S, d]
    is_grouped = query.shape[1] != key.shape[1]
    kernel = _flex_kernel(query.is_cuda)
    mixed: Tensor = kernel(query, key, value, block_mask=mask.blocks, enable_gqa=is_grouped)
    return mixed.transpose(0, 1)


@functools.cache
def _flex_kernel(compiled: bool) -> Any:
    from torch.nn.attention.flex_attention import flex_attention as eager

    # Eager FlexAttention computes all scores: right, and good enough to check against on the CPU.
    return torch.compile(eager) if compiled else eager
