"""Dropout whose masks are a function of what they decide for, not of a global generator.

A mask is keyed by (dropout key of the micro-batch, layer, site, head): it is equal on all ranks
where activations are replicated, differs between heads, does not depend on the tensor-parallel
size, and comes out the same when a layer is computed again in the backward pass.
"""

import contextlib
import enum
import hashlib
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Site(enum.IntEnum):
    """Where in the network a mask is used. Part of the key: never renumber."""

    EMBEDDING = 0
    ATTENTION_PROBABILITIES = 1
    ATTENTION_OUTPUT = 2
    MLP_OUTPUT = 3
    VISIBILITY = 4
    HEAD = 6  # 5 was never used
    GENERATOR = 7


def mask_seed(dropout_key: int, layer: int, site: Site, head: int = 0) -> int:
    """A seed of 63 bits for one mask."""
    packed = struct.pack("<qiii", dropout_key, layer, int(site), head)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


def keep_mask(shape: tuple[int, ...], rate: float, seed: int, device: torch.device) -> Tensor:
    """int16 of `shape`: all bits set with probability 1 - rate (in steps of 2^-15), else none."""
    mask = torch.empty(shape, dtype=torch.int16, device=device)
    draw_keep_mask(mask, rate, seed)
    return mask


def draw_keep_mask(mask: Tensor, rate: float, seed: int) -> None:
    """Fills the contiguous int16 `mask` like `keep_mask`."""
    threshold = round((1 - rate) * 32768)
    if mask.device.type == "cpu":
        # torch's own bernoulli_ takes 5.8 ns a value on the CPU; this draws four a random word.
        count = mask.numel()
        words = np.random.SFC64(seed).random_raw(-(-count // 4)).view(np.int16)[:count]
        mask.copy_(torch.from_numpy(words).view(mask.shape))
        mask.bitwise_and_(32767)
    else:
        mask.random_(0, 32768, generator=torch.Generator(mask.device).manual_seed(seed))
    mask.sub_(threshold).bitwise_right_shift_(15)  # the sign of (word - threshold)


def dropout(x: Tensor, rate: float, seed: int, part: tuple[int, int] = (0, 1)) -> Tensor:
    """`x` [T, H] with a share `rate` of its values zero and the rest scaled by 1 / (1 - rate).

    `part` = (index, count): `x` is the index-th of `count` equal parts of the tokens, as
    under sequence parallelism: the mask is drawn for the whole, so that it is that of any grid.
    """
    index, count = part
    length = x.shape[0]
    if x.is_cuda:
        # torch's own kernel, which takes a third of the time there; it knows no generator.
        with seeded(x.device, seed):
            if count == 1:
                return torch.native_dropout(x.contiguous(), rate, train=True)[0]
            whole = x.new_empty((length * count, *x.shape[1:]))
            drawn = torch.native_dropout(whole, rate, train=True)[1]
        mine = drawn[index * length : (index + 1) * length]
        kept: Tensor = torch.ops.aten.native_dropout_backward(x, mine, 1 / (1 - rate))
        return kept
    mask = keep_mask((length * count, *x.shape[1:]), rate, seed, x.device)
    return apply_keep_mask(x, mask[index * length : (index + 1) * length], 1 / (1 - rate))


@contextlib.contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """In this block torch's own generator of `device` starts from `seed`; then it is as before."""
    if device.type == "cpu":
        generator = torch.default_generator
    else:
        generator = torch.cuda.default_generators[device.index]
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)


def apply_keep_mask(x: Tensor, mask: Tensor, scale: float = 1.0) -> Tensor:
    """`x` times `scale` where the int16 `mask` has its bits set, 0 elsewhere."""
    result: Tensor = _ApplyKeepMask.apply(x, mask, scale)  # type: ignore[no-untyped-call]
    return result


class _ApplyKeepMask(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return _masked(x, mask, scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return _masked(gradient, mask, ctx.scale), None, None


_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def _masked(x: Tensor, mask: Tensor, scale: float) -> Tensor:
    # One "and" on the bits: multiplying bf16 by bool takes fifty times as long on the CPU.
    integer = _INTEGERS[x.element_size()]
    kept = (x.contiguous().view(integer) & mask.to(integer)).view(x.dtype)
    return kept if scale == 1.0 else kept.mul_(scale)
