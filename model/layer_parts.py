"""What lies between the linears of a layer, each a function of tensors that torch can compile.

For tensor-parallel ranks, whose linears communicate in ways that no compiled layer can hold. What
sums gradients over ranks stays outside: parameters are given as `ReplicatedGradient.shared` made
them.

T tokens (T/tp under sequence parallelism), H hidden, F inner width of the MLP, d head size.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.compiling import fused
from model.counter_dropout import kept_values
from model.rotary import Rotation, rotate

Part = TypeVar("Part", bound=Callable[..., Any])


class NormTensors(NamedTuple):
    """A norm over the last dimension, of its size."""

    weight: Tensor
    bias: Tensor | None
    eps: float
    is_rms: bool

    def __call__(self, x: Tensor) -> Tensor:
        """`x` [..., size], normalised."""
        if self.is_rms:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class MaskTensors(NamedTuple):
    """A dropout mask, see `model.counter_dropout`."""

    seeds: Tensor
    """[1, 2] int32."""
    rate: float
    first: int
    rows: Tensor | None = None
    """[N] int32: those of the mask that are meant; None: all from `first` on."""


def activate(x: Tensor, activation: str, bias: Tensor | None = None) -> Tensor:
    """[T, F/tp] of `x` + `bias` [T, F/tp], or [T, 2F/tp] with gate and value interleaved."""
    if bias is not None:
        x = x + bias
    if activation == "gelu":
        return F.gelu(x)
    if activation == "gelu_tanh":
        return F.gelu(x, approximate="tanh")
    gate, value = x.view(x.shape[0], -1, 2).unbind(-1)  # [T, F/tp] each
    if not gate.is_cuda:  # torch's CPU kernels compute strided values one by one
        gate = gate.contiguous()
    gate = F.gelu(gate) if activation == "geglu" else F.silu(gate)
    return gate * value


def add(product: Tensor, bias: Tensor | None, x: Tensor, mask: MaskTensors | None) -> Tensor:
    """`x` [T, H] plus dropout of `product` [T, H] + `bias`."""
    if bias is not None:
        product = product + bias
    if mask is not None:
        scale, place = 1 / (1 - mask.rate), mask.first
        flat = product.view(1, -1)
        kept = kept_values(flat, mask.rate, mask.seeds, scale, place, mask.rows)
        product = kept.view(product.shape)
    return x + product


def add_and_norm(
    product: Tensor, bias: Tensor | None, x: Tensor, mask: MaskTensors | None, norm: NormTensors
) -> tuple[Tensor, Tensor]:
    """(the sum of `add`, its norm): what a pre-LN layer reads of both."""
    total = add(product, bias, x, mask)
    return total, norm(total)


def norm_of_sum(
    product: Tensor, bias: Tensor | None, x: Tensor, mask: MaskTensors | None, norm: NormTensors
) -> Tensor:
    """The norm of the sum of `add`, as in a post-LN layer."""
    return norm(add(product, bias, x, mask))


def place(
    query: Tensor,
    key: Tensor,
    norms: tuple[nn.Module | NormTensors, nn.Module | NormTensors] | None,
    rotation: Rotation | None,
) -> tuple[Tensor, Tensor]:
    """Queries and keys [..., d], normalised and rotated."""
    if norms is not None:
        query, key = norms[0](query), norms[1](key)
    if rotation is not None:
        query, key = rotate(query, rotation), rotate(key, rotation)
    return query, key


def compiled(part: Part, device: torch.device) -> Part:
    """`part`, one of the functions here, compiled for each shape that it meets on `device`; as it
    is, with a warning, where torch cannot compile it."""
    result: Any = _compiled(part, device)
    kernel: Part = result
    return kernel


@functools.cache
def _compiled(part: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    # What is compiled for all shapes is made for the first one that comes, which may be another in
    # a resumed run.
    x, vector = torch.ones(2, 8, device=device), torch.ones(8, device=device)
    norm = NormTensors(vector, None, 1e-5, False)
    examples: dict[Any, tuple[Any, ...]] = {
        activate: (x, "gelu", vector),
        add: (x, vector, x, None),
        add_and_norm: (x, vector, x, None, norm),
        norm_of_sum: (x, vector, x, None, norm),
        place: (x, x, (norm, norm), None),
    }
    return fused(part, f"'{part.__name__}' of layers", *examples[part], dynamic=False)
