"""Where Hugging Face keeps each of our tensors, and the conversion both ways.

Pure functions on full (not sharded) tensors. H hidden size, n attention heads, d head size.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from configs.load import ConfigError


@dataclass(frozen=True)
class TensorPair:
    """One of our tensors and its name in Hugging Face: three names for a fused Q, K, V."""

    ours: str
    theirs: tuple[str, ...]
    shape: tuple[int, ...]
    """The shape of each of `theirs`."""
    num_heads: int = 0
    """Attention heads of a fused Q, K, V."""


def linear(ours: str, theirs: str, out_size: int, in_size: int) -> Iterator[TensorPair]:
    """The weight [out, in] and the bias [out] of a linear layer."""
    yield TensorPair(f"{ours}.weight", (f"{theirs}.weight",), (out_size, in_size))
    yield TensorPair(f"{ours}.bias", (f"{theirs}.bias",), (out_size,))


def layer_norm(ours: str, theirs: str, size: int) -> Iterator[TensorPair]:
    """The weight and the bias [size] of a layer normalisation."""
    yield TensorPair(f"{ours}.weight", (f"{theirs}.weight",), (size,))
    yield TensorPair(f"{ours}.bias", (f"{theirs}.bias",), (size,))


def separate_qkv(
    ours: str, theirs: tuple[str, str, str], hidden: int, num_heads: int
) -> Iterator[TensorPair]:
    """Our fused projection with rows [n, 3, d] as three projections [H, H] with biases [H]."""
    for kind, shape in (("weight", (hidden, hidden)), ("bias", (hidden,))):
        names = tuple(f"{name}.{kind}" for name in theirs)
        yield TensorPair(f"{ours}.{kind}", names, shape, num_heads)


def to_theirs(state: Mapping[str, Tensor], pairs: Iterable[TensorPair]) -> dict[str, Tensor]:
    """Hugging Face's tensors of our full `state`.

    Layers that share weights are written one by one; no two results share memory, which Hugging
    Face would take for tied weights. Raises KeyError for a tensor that `state` lacks.
    """
    result: dict[str, Tensor] = {}
    seen: set[str] = set()
    for pair in pairs:
        tensor = state[pair.ours]
        if len(pair.theirs) == 1:
            result[pair.theirs[0]] = tensor.clone() if pair.ours in seen else tensor
            seen.add(pair.ours)
            continue
        heads = tensor.view(pair.num_heads, 3, -1, *tensor.shape[1:])  # [n, 3, d(, H)]
        for place, name in enumerate(pair.theirs):
            result[name] = heads[:, place].reshape(pair.shape).contiguous()
    return result


def to_ours(state: Mapping[str, Tensor], pairs: Iterable[TensorPair]) -> dict[str, Tensor]:
    """Our full tensors from Hugging Face's `state`, which `shape_errors` found complete.

    Raises ConfigError where layers differ that share their weights in our model.
    """
    result: dict[str, Tensor] = {}
    for pair in pairs:
        tensor = _fuse([state[name] for name in pair.theirs], pair)
        if pair.ours in result and not torch.equal(tensor, result[pair.ours]):
            raise ConfigError(
                f"{pair.theirs[0]} differs from the same tensor of an earlier layer, but "
                "model.parameter_sharing gives both layers the same weights"
            )
        result[pair.ours] = tensor
    return result


def _fuse(parts: list[Tensor], pair: TensorPair) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    rest = pair.shape[1:]
    heads = [part.view(pair.num_heads, 1, -1, *rest) for part in parts]  # [n, 1, d(, H)]
    return torch.cat(heads, dim=1).reshape(3 * pair.shape[0], *rest)


def expected_shapes(pairs: Iterable[TensorPair]) -> dict[str, tuple[int, ...]]:
    """By Hugging Face's name, the shape of every tensor of `pairs`."""
    return {name: pair.shape for pair in pairs for name in pair.theirs}


def shape_errors(
    state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]
) -> Iterator[str]:
    """A line for every tensor of `expected` that `state` lacks or has in a different shape."""
    for name, shape in expected.items():
        if name not in state:
            yield f"{name}: missing (expected {list(shape)})"
        elif tuple(state[name].shape) != shape:
            yield f"{name}: shape {list(state[name].shape)}, expected {list(shape)}"
