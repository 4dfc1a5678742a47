"""Dropout whose masks are a function of what they decide for, not of a global generator.

A mask is keyed by (dropout key of the micro-batch, layer, site, head): it is equal on all ranks
where activations are replicated, differs between heads, does not depend on the tensor-parallel
size, and comes out the same when a layer is computed again in the backward pass.

There are two ways to draw it. On a CPU, `StreamDropout` takes a stream of random words from numpy,
whose generator is keyed on the host. Elsewhere, and in compiled layers, `CounterDropout` computes
each value from its place and a seed tensor (`model.counter_dropout`).
"""

import contextlib
import enum
import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from model.counter_dropout import check_places, counter_dropout
from model.label_slots import Slots
from model.layer_parts import MaskTensors
from model.transfer import to_device


class Site(enum.IntEnum):
    """Where in the network a mask is used. Part of the key: never renumber."""

    EMBEDDING = 0
    ATTENTION_PROBABILITIES = 1
    ATTENTION_OUTPUT = 2
    MLP_OUTPUT = 3
    VISIBILITY = 4
    HEAD = 6  # 5 was never used
    GENERATOR = 7


DropoutKey = int | Tensor
"""What identifies a micro-batch, or what `layer_seeds` made of it, on the device."""

HIDDEN_SITES = (Site.EMBEDDING, Site.ATTENTION_OUTPUT, Site.MLP_OUTPUT)
"""Of hidden states, in the order of their seeds in `CounterDropout`."""


def mask_seed(dropout_key: int, layer: int, site: Site, head: int = 0) -> int:
    """A seed of 63 bits for one mask."""
    packed = struct.pack("<qiii", dropout_key, layer, int(site), head)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


class LayerDropout(Protocol):
    """Draws the masks of one layer in one micro-batch."""

    def hidden(
        self,
        x: Tensor,
        rate: float,
        site: Site,
        part: tuple[int, int],
        slots: Slots | None = None,
    ) -> Tensor:
        """`x` [T, H] with a share `rate` of its values zero, the rest scaled by 1 / (1 - rate).

        `part` = (index, count): `x` is the index-th of `count` equal parts of the tokens, as
        under sequence parallelism: the values kept are those of any grid. With `slots`, `x` [N, H]
        are the tokens there, whose values are kept as if it were all tokens.
        """

    def probabilities(self, x: Tensor, rate: float, first_head: int) -> Tensor:
        """`x` [h, B, S, S] with a share `rate` of its values zero, the rest not scaled.

        Its heads are those from `first_head` on among the heads of all tensor-parallel ranks.
        """


@dataclass(frozen=True)
class StreamDropout:
    """Masks from streams of random words, for CPUs."""

    key: int
    """Of the micro-batch."""
    layer: int

    def hidden(
        self,
        x: Tensor,
        rate: float,
        site: Site,
        part: tuple[int, int],
        slots: Slots | None = None,
    ) -> Tensor:
        """See `LayerDropout`."""
        seed = mask_seed(self.key, self.layer, site)
        if slots is None:
            return dropout(x, rate, seed, part)
        mask = torch.empty((slots.num_tokens, *x.shape[1:]), dtype=torch.int16)
        draw_keep_mask(mask, rate, seed)
        return apply_keep_mask(x, slots.of(mask), 1 / (1 - rate))

    def probabilities(self, x: Tensor, rate: float, first_head: int) -> Tensor:
        """See `LayerDropout`."""
        mask = torch.empty(x.shape, dtype=torch.int16, device=x.device)
        for place in range(x.shape[0]):
            site = Site.ATTENTION_PROBABILITIES
            draw_keep_mask(
                mask[place], rate, mask_seed(self.key, self.layer, site, first_head + place)
            )
        return apply_keep_mask(x, mask)


@dataclass(frozen=True)
class CounterDropout:
    """Masks computed from seeds on the device: nothing here depends on a generator's state."""

    hidden_seeds: Tensor
    """[HIDDEN_SITES, 2] int32."""
    head_seeds: Tensor
    """[heads of all ranks, 2] int32; [0, 2] where no probabilities are dropped here."""

    def hidden(
        self,
        x: Tensor,
        rate: float,
        site: Site,
        part: tuple[int, int],
        slots: Slots | None = None,
    ) -> Tensor:
        """See `LayerDropout`."""
        seeds, _, first, rows = self.mask(x, rate, site, part, slots)
        return counter_dropout(x[None], rate, seeds, 1 / (1 - rate), first, rows)[0]

    def mask(
        self,
        x: Tensor,
        rate: float,
        site: Site,
        part: tuple[int, int],
        slots: Slots | None = None,
    ) -> MaskTensors:
        """What decides which values of `x` are kept, see `hidden`."""
        seeds = self.hidden_seeds[HIDDEN_SITES.index(site)][None]  # [1, 2]
        if slots is not None:
            check_places(slots.num_tokens * x.shape[1])
            return MaskTensors(seeds, rate, 0, slots.tokens.int())
        check_places((part[0] + 1) * x.numel())
        return MaskTensors(seeds, rate, part[0] * x.numel())

    def probabilities(self, x: Tensor, rate: float, first_head: int) -> Tensor:
        """See `LayerDropout`."""
        return counter_dropout(x, rate, self.head_seeds[first_head : first_head + x.shape[0]])


def layer_dropouts(
    key: DropoutKey, num_layers: int, num_heads: int, device: torch.device, with_counters: bool
) -> list[LayerDropout]:
    """By layer, what draws its masks in the micro-batch `key`.

    `with_counters` says how, unless `key` are seeds. `num_heads`: heads of all ranks whose
    probabilities are dropped by this module; 0 if none are. All seeds reach the device in one
    transfer.
    """
    layers = range(num_layers)
    if isinstance(key, int):
        if not with_counters:
            return [StreamDropout(key, layer) for layer in layers]
        key = to_device(layer_seeds(key, num_layers, num_heads), device)
    sites = len(HIDDEN_SITES)
    return [CounterDropout(key[layer, :sites], key[layer, sites:]) for layer in layers]


def layer_seeds(key: int, num_layers: int, num_heads: int) -> Tensor:
    """[L, HIDDEN_SITES + heads, 2] int32 on the host: the seeds of `CounterDropout` in all layers,
    in the micro-batch `key`."""
    site = Site.ATTENTION_PROBABILITIES
    return seed_words(
        [
            [mask_seed(key, layer, site) for site in HIDDEN_SITES]
            + [mask_seed(key, layer, site, head) for head in range(num_heads)]
            for layer in range(num_layers)
        ]
    )


def seed_words(seeds: Any) -> Tensor:
    """[..., 2] int32: the two halves of nested lists [...] of seeds."""
    words = np.asarray(seeds, np.int64).view(np.int32).reshape(*np.shape(seeds), 2)
    return torch.from_numpy(words)


def seed_tensor(seeds: Any, device: torch.device) -> Tensor:
    """`seed_words` on `device`."""
    return to_device(seed_words(seeds), device)


def dropout(x: Tensor, rate: float, seed: int, part: tuple[int, int] = (0, 1)) -> Tensor:
    """`x` [T, H] with a share `rate` of its values zero and the rest scaled by 1 / (1 - rate).

    `part` is explained in `LayerDropout.hidden`. For what is outside of the layers.
    """
    index, count = part
    if x.device.type != "cpu":
        seeds = seed_tensor([seed], x.device)
        return counter_dropout(x[None], rate, seeds, 1 / (1 - rate), index * x.numel())[0]
    length = x.shape[0]
    mask = torch.empty((length * count, *x.shape[1:]), dtype=torch.int16)
    draw_keep_mask(mask, rate, seed)
    return apply_keep_mask(x, mask[index * length : (index + 1) * length], 1 / (1 - rate))


def draw_keep_mask(mask: Tensor, rate: float, seed: int) -> None:
    """Sets the contiguous int16 `mask`, on the CPU: all bits of a value with probability 1 - rate
    (in steps of 2^-15), else none.

    torch's own bernoulli_ takes 5.8 ns a value on the CPU; this draws four a random word.
    """
    threshold = round((1 - rate) * 32768)
    count = mask.numel()
    words = np.random.SFC64(seed).random_raw(-(-count // 4)).view(np.int16)[:count]
    mask.copy_(torch.from_numpy(words).view(mask.shape))
    mask.bitwise_and_(32767)
    mask.sub_(threshold).bitwise_right_shift_(15)  # the sign of (word - threshold)


@contextlib.contextmanager
def seeded(device: torch.device, seed: int | None) -> Iterator[None]:
    """In this block torch's own generator of `device` starts from `seed`; then it is as before.

    None: it is left alone.
    """
    if seed is None:
        yield
        return
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
