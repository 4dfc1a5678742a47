"""Dropout that computes each value of a mask from its place and a seed, with integer operations.

No generator is seeded and no mask is stored: the backward pass computes it again. The operations
are torch's own, so that a compiler fuses them into what is before and after, and so that all
devices, compiled or not, keep the same values.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.compiling import fused

MAX_PLACES = 2**31
"""Of one mask: places are counted in 32 bits."""


def counter_dropout(
    x: Tensor,
    rate: float,
    seeds: Tensor,
    scale: float = 1.0,
    first: int = 0,
    rows: Tensor | None = None,
) -> Tensor:
    """`x` [N, ...] times `scale` where it is kept, 0 elsewhere; a share `rate` is not kept.

    `seeds` [N, 2] int32 are one seed for each mask x[n], of random bits as `mask_seed` gives
    them. Its places are counted from `first`: two parts of a mask, each with its `first`, are
    equal to the whole. With `rows` [R] int32, x is [N, R, W] of these rows of a mask of rows of W
    places. Raises ValueError for masks of more than 2^31 places.
    """
    check_places(first + x[0].numel())
    result: Tensor = _CounterDropout.apply(x, rate, seeds, scale, first, rows)  # type: ignore[no-untyped-call]
    return result


def check_places(count: int) -> None:
    """Raises ValueError for a mask of more than 2^31 places."""
    if count > MAX_PLACES:
        raise ValueError(f"a dropout mask of {count} values: take fewer rows")


class _CounterDropout(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        rate: float,
        seeds: Tensor,
        scale: float,
        first: int,
        rows: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(seeds, rows)
        ctx.settings = (rate, scale, first)
        return _of_each_row(x, rate, seeds, scale, first, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        seeds, rows = ctx.saved_tensors
        rate, scale, first = ctx.settings
        kept = _of_each_row(gradient, rate, seeds, scale, first, rows)
        return kept, None, None, None, None, None


def _of_each_row(
    x: Tensor, rate: float, seeds: Tensor, scale: float, first: int, rows: Tensor | None
) -> Tensor:
    """`kept_values` of `x` [N, ...], in one kernel on a GPU; within a compiled layer it is compiled
    with that."""
    is_alone = x.is_cuda and not torch.compiler.is_compiling()
    compute = fused_kept_values(x.device) if is_alone else kept_values
    # One form for all shapes, with and without a gradient.
    return compute(x.detach().flatten(1), rate, seeds, scale, first, rows).view(x.shape)


def kept_values(
    x: Tensor,
    rate: float,
    seeds: Tensor,
    scale: float,
    first: int,
    rows: Tensor | None = None,
) -> Tensor:
    """The values of `counter_dropout` for `x` [N, P], without a gradient."""
    count = x.shape[1] if rows is None else x.shape[1] // rows.shape[0]
    places = torch.arange(first, first + count, dtype=torch.int32, device=x.device)
    if rows is not None:
        places = (rows[:, None] * count + places).view(-1)  # [P]
    words = mixed(mixed(places ^ seeds[:, :1]) ^ seeds[:, 1:])  # [N, P]
    # A word is uniform in [-2^31, 2^31).
    return torch.where(words >= round(rate * 2**32) - 2**31, x * scale, 0)


def mixed(x: Tensor) -> Tensor:
    """A bijection of int32 that looks random: "triple32" of Wellons' hash-prospector (public
    domain), on two's complement."""
    x = (x ^ _shifted(x, 17)) * (0xED5AD4BB - 2**32)
    x = (x ^ _shifted(x, 11)) * (0xAC4C1B51 - 2**32)
    x = (x ^ _shifted(x, 15)) * 0x31848BAB
    return x ^ _shifted(x, 14)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shifted to the right, zeros moving in; torch's own shift of int32 repeats the sign."""
    return (x >> bits) & ((1 << (32 - bits)) - 1)


@functools.cache
def fused_kept_values(
    device: torch.device,
) -> Callable[[Tensor, float, Tensor, float, int, Tensor | None], Tensor]:
    """`kept_values` in one kernel of `device`, where torch can compile it."""
    seeds = torch.ones(2, 2, dtype=torch.int32, device=device)
    example = torch.ones(2, 64, device=device)
    return fused(kept_values, "dropout", example, 0.5, seeds, 1.0, 0, None)
