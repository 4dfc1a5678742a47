"""Where Hugging Face keeps each of our tensors, and the conversion both ways.

Pure functions on full (not sharded) tensors.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from configs.load import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TensorPair:
    """One of our tensors, and where Hugging Face keeps it.

    Ours may interleave several matrices in blocks of rows (query, key and value of each head; gate
    and value of each inner unit), which Hugging Face keeps as tensors of their own, or as one
    tensor with one matrix after the other.
    """

    ours: str
    theirs: tuple[str, ...]
    """One name, or one for each matrix."""
    shape: tuple[int, ...]
    """The shape of each of `theirs`."""
    num_matrices: int = 1
    """Matrices that ours interleaves."""
    num_blocks: int = 1
    """Blocks of each matrix."""


def linear(
    ours: str, theirs: str, out_size: int, in_size: int, has_bias: bool = True
) -> Iterator[TensorPair]:
    """The weight [out, in] and the bias [out] of a linear layer."""
    yield TensorPair(f"{ours}.weight", (f"{theirs}.weight",), (out_size, in_size))
    if has_bias:
        yield TensorPair(f"{ours}.bias", (f"{theirs}.bias",), (out_size,))


def layer_norm(ours: str, theirs: str, size: int, has_bias: bool = True) -> Iterator[TensorPair]:
    """The weight and the bias [size] of a layer normalisation."""
    yield TensorPair(f"{ours}.weight", (f"{theirs}.weight",), (size,))
    if has_bias:
        yield TensorPair(f"{ours}.bias", (f"{theirs}.bias",), (size,))


def interleaved(
    ours: str,
    theirs: Sequence[str],
    size: tuple[int, int],
    num_matrices: int,
    num_blocks: int,
    has_bias: bool = True,
) -> Iterator[TensorPair]:
    """A linear layer of several matrices: `theirs` has one name, or one for each of them.

    `size` is (rows, columns) of each matrix; there are `num_blocks` blocks of its rows.
    """
    rows, columns = size
    if len(theirs) == 1:
        rows *= num_matrices
    for kind, shape in (("weight", (rows, columns)), ("bias", (rows,))):
        if kind == "weight" or has_bias:
            names = tuple(f"{name}.{kind}" for name in theirs)
            yield TensorPair(f"{ours}.{kind}", names, shape, num_matrices, num_blocks)


def to_theirs(state: Mapping[str, "Tensor"], pairs: Iterable[TensorPair]) -> dict[str, "Tensor"]:
    """Hugging Face's tensors of our full `state`.

    Layers that share weights are written one by one; no two results share memory, which Hugging
    Face would take for tied weights. Raises KeyError for a tensor that `state` lacks.
    """
    result: dict[str, Tensor] = {}
    seen: set[str] = set()
    for pair in pairs:
        tensor = state[pair.ours]
        if pair.num_matrices == 1:
            result[pair.theirs[0]] = tensor.clone() if pair.ours in seen else tensor
            seen.add(pair.ours)
            continue
        rest = tensor.shape[1:]
        blocks = tensor.view(pair.num_blocks, pair.num_matrices, -1, *rest)
        separate = blocks.transpose(0, 1).reshape(len(pair.theirs), *pair.shape)
        for name, matrix in zip(pair.theirs, separate, strict=True):
            result[name] = matrix.clone()
    return result


def to_ours(state: Mapping[str, "Tensor"], pairs: Iterable[TensorPair]) -> dict[str, "Tensor"]:
    """Our full tensors from Hugging Face's `state`, which `shape_errors` found complete.

    Raises ConfigError where layers differ that share their weights in our model.
    """
    result: dict[str, Tensor] = {}
    for pair in pairs:
        tensor = _interleave([state[name] for name in pair.theirs], pair)
        if pair.ours in result and not tensor.equal(result[pair.ours]):
            raise ConfigError(
                f"{pair.theirs[0]} differs from the same tensor of an earlier layer, but "
                "model.parameter_sharing gives both layers the same weights"
            )
        result[pair.ours] = tensor
    return result


def _interleave(parts: list["Tensor"], pair: TensorPair) -> "Tensor":
    if pair.num_matrices == 1:
        return parts[0]
    import torch

    together = torch.cat(parts)
    rest = pair.shape[1:]
    blocks = together.view(pair.num_matrices, pair.num_blocks, -1, *rest)
    return blocks.transpose(0, 1).reshape(-1, *rest)


def expected_shapes(pairs: Iterable[TensorPair]) -> dict[str, tuple[int, ...]]:
    """By Hugging Face's name, the shape of every tensor of `pairs`."""
    return {name: pair.shape for pair in pairs for name in pair.theirs}


def shape_errors(
    state: Mapping[str, "Tensor"], expected: Mapping[str, tuple[int, ...]]
) -> Iterator[str]:
    """A line for every tensor of `expected` that `state` lacks or has in a different shape."""
    for name, shape in expected.items():
        if name not in state:
            yield f"{name}: missing (expected {list(shape)})"
        elif tuple(state[name].shape) != shape:
            yield f"{name}: shape {list(state[name].shape)}, expected {list(shape)}"
