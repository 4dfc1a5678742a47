"""Where Hugging Face keeps each of our tensors, and the conversion both ways.

Pure functions on full (not sharded) tensors.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from configs.load import ConfigError
from model.config import ModelConfig

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
    """The shape of ours, and of `theirs` one after the other."""
    block_rows: tuple[int, ...] = ()
    """How many rows of a block belong to each matrix (`ParameterSpec.matrices`); empty: one
    matrix, as it is."""

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The name and the shape of each of `theirs`."""
        if len(self.theirs) == 1:
            yield self.theirs[0], self.shape
            return
        for name, rows in zip(self.theirs, self.matrix_rows, strict=True):
            yield name, (rows, *self.shape[1:])

    @property
    def matrix_rows(self) -> list[int]:
        """The rows of each matrix."""
        num_blocks = self.shape[0] // sum(self.block_rows)
        return [rows * num_blocks for rows in self.block_rows]


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
    block_rows = (rows // num_blocks,) * num_matrices
    yield from _in_blocks(ours, theirs, (num_matrices * rows, columns), block_rows, has_bias)


def query_key_value(
    ours: str, theirs: Sequence[str], config: ModelConfig, has_bias: bool = True
) -> Iterator[TensorPair]:
    """The projections to queries, keys and values: `theirs` has one name, or one for each."""
    size = config.head_size
    queries = config.num_attention_heads // config.key_value_heads * size
    shape = ((queries + 2 * size) * config.key_value_heads, config.hidden_size)
    yield from _in_blocks(ours, theirs, shape, (queries, size, size), has_bias)


def _in_blocks(
    ours: str,
    theirs: Sequence[str],
    shape: tuple[int, int],
    block_rows: tuple[int, ...],
    has_bias: bool,
) -> Iterator[TensorPair]:
    for kind, of_kind in (("weight", shape), ("bias", shape[:1])):
        if kind == "weight" or has_bias:
            names = tuple(f"{name}.{kind}" for name in theirs)
            yield TensorPair(f"{ours}.{kind}", names, of_kind, block_rows)


def to_theirs(state: Mapping[str, "Tensor"], pairs: Iterable[TensorPair]) -> dict[str, "Tensor"]:
    """Hugging Face's tensors of our full `state`.

    Layers that share weights are written one by one; no two results share memory, which Hugging
    Face would take for tied weights. Raises KeyError for a tensor that `state` lacks.
    """
    import torch

    result: dict[str, Tensor] = {}
    seen: set[str] = set()
    for pair in pairs:
        tensor = state[pair.ours]
        if not pair.block_rows:
            result[pair.theirs[0]] = tensor.clone() if pair.ours in seen else tensor
            seen.add(pair.ours)
            continue
        rest = tensor.shape[1:]
        blocks = tensor.view(-1, sum(pair.block_rows), *rest)
        parts = [
            part.reshape(-1, *rest) for part in torch.split(blocks, list(pair.block_rows), dim=1)
        ]
        if len(pair.theirs) == 1:
            parts = [torch.cat(parts)]
        result |= {name: part.clone() for name, part in zip(pair.theirs, parts, strict=True)}
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
    if not pair.block_rows:
        return parts[0]
    import torch

    rest = pair.shape[1:]
    matrices = torch.split(torch.cat(parts), pair.matrix_rows)
    pairs = zip(matrices, pair.block_rows, strict=True)
    return torch.cat([part.view(-1, rows, *rest) for part, rows in pairs], dim=1).view(-1, *rest)


def may_be_equal(one: "Tensor", other: "Tensor") -> bool:
    """Whether two tensors are equal, or only of equal shape where their values are not at hand."""
    if one.shape != other.shape:
        return False
    return one.is_meta or other.is_meta or one.equal(other)


def expected_shapes(pairs: Iterable[TensorPair]) -> dict[str, tuple[int, ...]]:
    """By Hugging Face's name, the shape of every tensor of `pairs`."""
    return dict(named for pair in pairs for named in pair.shapes())


def shape_errors(
    state: Mapping[str, "Tensor"], expected: Mapping[str, tuple[int, ...]]
) -> Iterator[str]:
    """A line for every tensor of `expected` that `state` lacks or has in a different shape."""
    for name, shape in expected.items():
        if name not in state:
            yield f"{name}: missing (expected {list(shape)})"
        elif tuple(state[name].shape) != shape:
            yield f"{name}: shape {list(state[name].shape)}, expected {list(shape)}"
