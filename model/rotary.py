"""Rotary positions (Su et al. 2021): queries and keys turned by their positions.

B rows, S tokens in a row, h heads, d head size. Pairs are (i, i + d/2), as in GPT-NeoX and Hugging
Face's implementations.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Rotation = tuple[Tensor, Tensor]
"""(cosine, sine), [B or 1, S, d/2] each."""


def rotation_of(positions: Tensor, head_size: int, base: float, dtype: torch.dtype) -> Rotation:
    """(cosine, sine), [..., S, d/2] each, of `positions` [..., S] (Su et al. 2021, equation 15)."""
    exponents = torch.arange(0, head_size, 2, device=positions.device, dtype=torch.float32)
    angles = positions[..., None].float() * base ** (-exponents / head_size)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """`x` [h, B, S, d] turned by its positions, or any other that the rotation broadcasts to."""
    cosine, sine = rotation
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


def split_and_rotate(qkv: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys, rotated, and values of `qkv` [B, S, h, 3, d]: [h, B, S, d] contiguous each.

    The same bits as `rotate` of contiguous copies, written in place of copied and concatenated.
    """
    query, key, value = _SplitAndRotate.apply(qkv, *rotation)  # type: ignore[no-untyped-call]
    return query, key, value


class _SplitAndRotate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, cosine: Tensor, sine: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cosine, sine)
        rows, tokens, heads, _, size = qkv.shape
        parts = [qkv.new_empty(heads, rows, tokens, size) for _ in range(3)]
        for number, part in enumerate(parts):
            source = qkv[:, :, :, number].permute(2, 0, 1, 3)  # [h, B, S, d]
            if number == 2:
                part.copy_(source)
            else:
                _rotate_into(part, source, cosine, sine)
        return parts[0], parts[1], parts[2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        heads, rows, tokens, size = gradients[0].shape
        result = gradients[0].new_empty(rows, tokens, heads, 3, size)
        for number, gradient in enumerate(gradients):
            target = result[:, :, :, number].permute(2, 0, 1, 3)  # [h, B, S, d]
            if number == 2:
                target.copy_(gradient)
            else:  # the inverse of a rotation is the one by the opposite angle
                _rotate_into(target, gradient, cosine, -sine)
        return result, None, None


def _rotate_into(target: Tensor, x: Tensor, cosine: Tensor, sine: Tensor) -> None:
    """Writes `x` [h, B, S, d] turned by its positions to `target` of its shape."""
    first, second = x.chunk(2, dim=-1)
    into_first, into_second = target.chunk(2, dim=-1)
    # Not `addcmul_`, which rounds once instead of twice on processors that can: other bits.
    torch.mul(first, cosine, out=into_first)
    into_first -= second * sine
    torch.mul(second, cosine, out=into_second)
    into_second += first * sine
