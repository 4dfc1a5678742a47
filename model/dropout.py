"""Dropout whose masks are a function of what they decide for, not of a global generator.

A mask is keyed by (dropout key of the micro-batch, layer, site, head): it is equal on all ranks
where activations are replicated, differs between heads, does not depend on the tensor-parallel
size, and comes out the same when a layer is computed again in the backward pass.
"""

import enum
import hashlib
import struct
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
    POOLER = 5
    HEAD = 6


def mask_seed(dropout_key: int, layer: int, site: Site, head: int = 0) -> int:
    """A seed of 63 bits for one mask."""
    packed = struct.pack("<qiii", dropout_key, layer, int(site), head)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


def keep_mask(shape: tuple[int, ...], rate: float, seed: int, device: torch.device) -> Tensor:
    """Bool tensor of `shape`: True with probability 1 - rate (in steps of 2^-16 on the CPU)."""
    if device.type != "cpu":
        generator = torch.Generator(device).manual_seed(seed)
        kept = torch.empty(shape, dtype=torch.uint8, device=device)
        return kept.bernoulli_(1 - rate, generator=generator).bool()
    # torch's own bernoulli_ takes 5.8 ns a value on the CPU, this 0.5: four values a random word.
    count = int(np.prod(shape))
    words = np.random.SFC64(seed).random_raw(-(-count // 4)).view(np.int16)[:count]
    threshold = round(rate * 65536) - 32768
    return (torch.from_numpy(words) >= threshold).view(shape)


def dropout(x: Tensor, rate: float, seed: int, part: tuple[int, int] = (0, 1)) -> Tensor:
    """`x` [T, H] with a share `rate` of its values zero and the rest scaled by 1 / (1 - rate).

    `part` = (index, count) says that `x` is the index-th of `count` equal parts of the tokens, as
    under sequence parallelism: the mask is drawn for the whole, so that it is that of any grid.
    """
    index, count = part
    length = x.shape[0]
    kept = keep_mask((length * count, *x.shape[1:]), rate, seed, x.device)
    return apply_keep_mask(x, kept[index * length : (index + 1) * length], rate)


def apply_keep_mask(x: Tensor, kept: Tensor, rate: float) -> Tensor:
    """`x` where `kept`, scaled by 1 / (1 - rate), and 0 elsewhere; saves one byte a value."""
    result: Tensor = _ApplyKeepMask.apply(x, kept, 1.0 / (1.0 - rate))
    return result


class _ApplyKeepMask(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return _scaled(x, kept, scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        return _scaled(gradient, kept, ctx.scale), None, None


def _scaled(x: Tensor, kept: Tensor, scale: float) -> Tensor:
    # Multiplying equal types is vectorised; bf16 by bool takes 5 ns a value on the CPU.
    return kept.to(x.dtype).mul_(scale).mul_(x)
