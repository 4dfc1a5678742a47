"""Multi-head self-attention with its heads sharded over tensor-parallel ranks.

B rows, S tokens in a row, T = B x S, H hidden, d head size; of this rank (all / tp): h query heads,
k key/value heads, each of which serves g = h / k query heads (Ainslie et al. 2023; g = 1: each has
its own).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention_masks import AttentionMask, Backend
from model.config import ModelConfig
from model.layer_parts import compiled, place
from model.layers import ColumnLinear, Norm, RowLinear
from model.parallel.grid import Grid
from model.rotary import Rotation, split_and_rotate
from model.row_context import LayerContext
from model.varlen_attention import varlen_attention


class SelfAttention(nn.Module):
    """[T(/tp), H] -> [T(/tp), H]; Q, K, V fused in one matrix with rows [k, g + 2, d]."""

    def __init__(self, grid: Grid, config: ModelConfig, compiles_parts: bool = False) -> None:
        """`compiles_parts`: in training, norms and rotation of queries and keys are compiled."""
        super().__init__()
        self.compiles_parts = compiles_parts
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
        self.rate = config.attention_dropout

    def forward(self, x: Tensor, context: LayerContext) -> Tensor:
        """[T(/tp), H], or [N, H] of the tokens that are read."""
        result: Tensor = self.output(context.read(self.mix(x, context)))
        return result

    def mix(self, x: Tensor, context: LayerContext) -> Tensor:
        """[T, H/tp], what the output's matrix reads, of [T(/tp), H]."""
        rows, tokens = context.shape
        groups, size = self.num_local_groups, self.head_size
        qkv = self.qkv(x).view(rows, tokens, groups, -1, size)  # [B, S, k, g + 2, d]
        if context.mask.backend == "varlen":
            return self._mix_sequences(qkv, context)
        query, key, value = self._heads(qkv, context.mask.backend, context.rotation)
        mixed = self._mix(query, key, value, context)  # [h, B, S, d]
        return mixed.permute(1, 2, 0, 3).reshape(rows * tokens, -1)

    def _heads(
        self, qkv: Tensor, backend: Backend, rotation: Rotation | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [h, B, S, d], keys and values [k, B, S, d]; normalised and rotated."""
        is_plain = self.group_heads == 1 and self.query_norm is None and backend == "explicit"
        if is_plain and rotation is not None and not torch.compiler.is_compiling():
            return split_and_rotate(qkv, rotation)
        query, key, value = self._split(qkv, backend)
        query, key = self._placed(query, key, rotation)
        return query, key, value

    def _placed(
        self, query: Tensor, key: Tensor, rotation: Rotation | None
    ) -> tuple[Tensor, Tensor]:
        """Queries and keys [..., d], normalised and rotated."""
        norms = None
        if self.query_norm is not None and self.key_norm is not None:
            norms = (self.query_norm, self.key_norm)
        if norms is None and rotation is None:
            return query, key
        if not (self.compiles_parts and self.training):
            return place(query, key, norms, rotation)
        tensors = None if norms is None else (norms[0].tensors(), norms[1].tensors())
        return compiled(place, query.device)(query, key, tensors, rotation)

    def _mix_sequences(self, qkv: Tensor, context: LayerContext) -> Tensor:
        """[T, H/tp]: the kernels read queries, keys and values as they lie in `qkv`."""
        mask, rotation = context.mask, context.rotation
        assert mask.bounds is not None
        query, key, value = torch.split(qkv, [self.group_heads, 1, 1], dim=3)
        query, key, value = (part.flatten(2, 3) for part in (query, key, value))  # [B, S, h, d]
        if rotation is not None:
            rotation = (rotation[0][:, :, None], rotation[1][:, :, None])  # of all heads
        query, key = self._placed(query, key, rotation)
        query, key, value = (part.flatten(0, 1) for part in (query, key, value))  # [T, h, d]
        longest = context.shape[1]
        mixed = varlen_attention(query, key, value, mask.bounds, longest, mask.reach)
        return mixed.flatten(1)

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

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, context: LayerContext) -> Tensor:
        mask, dropout = context.mask, context.dropout
        rate = 0.0 if dropout is None else self.rate
        if mask.backend == "flex":
            return flex_attention(query, key, value, mask)
        # The other kernels know no groups, or are slow with them and a mask.
        key, value = (repeated(part, self.group_heads) for part in (key, value))  # [h, B, S, d]
        if mask.backend == "sdpa":
            return sdpa_attention(query, key, value, mask.allowed, rate, mask.is_causal)
        if dropout is None or rate == 0:
            return explicit_attention(query, key, value, mask.bias)
        # Dropout's scale goes to the smaller of the two factors.
        value = value * (1 / (1 - rate))
        drop = functools.partial(dropout.probabilities, rate=rate, first_head=self.first_head)
        return explicit_attention(query, key, value, mask.bias, drop)


def repeated(x: Tensor, times: int) -> Tensor:
    """[k x times, B, S, d] of [k, B, S, d]: each head as often, one after the other."""
    return x if times == 1 else x.repeat_interleave(times, dim=0)


def explicit_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    drop: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """drop(softmax(Q K^T / sqrt(d) + bias)) V, [h, B, S, d] from three of these.

    `bias` is broadcastable to [h, B, S, S]; `drop` sets probabilities [h, B, S, S] to 0, or None;
    its scale 1 / (1 - rate) is the caller's, in `value`.
    """
    scores = torch.matmul(query * (1 / math.sqrt(query.shape[-1])), key.transpose(-1, -2))
    if bias is not None:
        scores = scores + bias
    probabilities = torch.softmax(scores, dim=-1)  # [h, B, S, S]
    if drop is not None:
        probabilities = drop(probabilities)
    return torch.matmul(probabilities, value)  # [h, B, S, d]


def sdpa_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    allowed: Tensor | None,
    dropout: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    """The same through torch's scaled_dot_product_attention, [h, B, S, d].

    `is_causal` stands for the mask of tokens that see all of their row up to themselves.

    A share `dropout` of the probabilities is dropped by torch's global generator, which the
    encoder sets for all its layers together. The masks depend on the tensor-parallel size,
    unlike those of the explicit backend.
    """
    query, key, value = (x.transpose(0, 1) for x in (query, key, value))  # [B, h, S, d]
    mask = None if allowed is None else allowed[:, None]  # [B or 1, 1, S or 1, S]
    mixed = F.scaled_dot_product_attention(
        query, key, value, mask, dropout_p=dropout, is_causal=is_causal
    )
    return mixed.transpose(0, 1)


def flex_attention(query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask) -> Tensor:
    """The same through FlexAttention, which skips blocks that the mask empties; no dropout.

    `key` and `value` may have fewer heads, each for as many consecutive heads of `query`.
    """
    query, key, value = (x.transpose(0, 1) for x in (query, key, value))  # [B, h, S, d]
    is_grouped = query.shape[1] != key.shape[1]
    # In a compiled layer it is compiled with that.
    kernel = _flex_kernel(query.is_cuda and not torch.compiler.is_compiling())
    mixed: Tensor = kernel(query, key, value, block_mask=mask.blocks, enable_gqa=is_grouped)
    return mixed.transpose(0, 1)


@functools.cache
def _flex_kernel(compiled: bool) -> Any:
    from torch.nn.attention.flex_attention import flex_attention as eager

    # Eager FlexAttention computes all scores: right, and good enough to check against on the CPU.
    return torch.compile(eager) if compiled else eager
