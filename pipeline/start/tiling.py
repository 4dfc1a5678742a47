"""Makes the weights of a model those of a larger one, by tiling them from the centre.

As ModernBERT-large was started from base (Warner et al. 2024, section 2.2.2 and appendix A.2): each
dimension of a tensor holds the smaller tensor in its centre and wraps around on both sides, as in
the Phi models, and layer i of n takes layer round(i m / n) of m, as in Gopher (Rae et al. 2021).
Heads, pairs of gate and value, and groups of query heads are tiled whole. Learned positions are
repeated from their first on. Imports no torch.

m, n: a size before and after.
"""

import re
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from model.config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

Index = NDArray[np.int64]
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


class Tiling:
    """The way from the tensors of one model to those of a larger one, whose sizes can be reached
    (`pipeline.start.architecture.growth_errors`)."""

    def __init__(self, start: ModelConfig, now: ModelConfig) -> None:
        self._start, self._now = start, now
        self._layers = layer_map(_num_stored_layers(start), _num_stored_layers(now))

    def source(self, name: str) -> str:
        """The parameter of the smaller model that `name` is made from."""
        found = _LAYER.match(name)
        if found is None:
            return name
        return f"encoder.layers.{self._layers[int(found[1])]}.{name[found.end() :]}"

    def is_new(self, name: str) -> bool:
        """Whether the smaller model has no such parameter: the norm that its first layer lacks."""
        is_first = self.source(name).startswith("encoder.layers.0.attention_norm.")
        return is_first and not self._start.first_norm

    def tiled(self, name: str, tensor: "Tensor", shape: tuple[int, ...]) -> "Tensor":
        """The parameter `name` of the larger model, of `shape`, from that of the smaller."""
        import torch

        for dim, (old, new) in enumerate(zip(tensor.shape, shape, strict=True)):
            index = self._index(name, dim, old, new)
            assert len(index) == new, f"{name}: {len(index)} of {new}"
            tensor = tensor.index_select(dim, torch.from_numpy(index))
        return tensor

    def _index(self, name: str, dim: int, old: int, new: int) -> Index:
        """Where each place [n] of a dimension comes from."""
        part = name.rsplit(".", 2)[-2] if name.startswith("encoder.") else ""
        if name.endswith((".attention.qkv.weight", ".attention.qkv.bias")) and dim == 0:
            return self._heads(extra=2)
        if name.endswith(".attention.output.weight") and dim == 1:
            return self._heads(extra=0)
        if part == "up" and dim == 0:
            unit = 2 if self._start.is_gated else 1
            return _blocks(centred(old // unit, new // unit), np.arange(unit), unit)
        if name == "encoder.embeddings.position.weight" and dim == 0:
            before, offset = _offset(self._start), _offset(self._now)
            places = before + np.arange(new - offset) % (old - before)
            # Those before the offset are of padding, if of anything.
            return np.concatenate([np.arange(offset) % max(before, 1), places])
        return centred(old, new)

    def _heads(self, extra: int) -> Index:
        """The rows of the groups of heads, which have their queries' first, then `extra` blocks."""
        size = self._start.head_size
        old, new = (
            one.num_attention_heads // one.key_value_heads for one in (self._start, self._now)
        )
        blocks = np.concatenate([centred(old, new), old + np.arange(extra)])
        rows = _blocks(blocks, np.arange(size), size)
        groups = centred(self._start.key_value_heads, self._now.key_value_heads)
        return _blocks(groups, rows, (old + extra) * size)


def centred(old: int, new: int) -> Index:
    """[n] the place in `old` that each of `new` places takes: the old ones in the centre, wrapped
    around on both sides."""
    index: Index = (np.arange(new) - (new - old) // 2) % old
    return index


def layer_map(old: int, new: int) -> list[int]:
    """The layer of `old` layers that each of `new` layers starts from."""
    return [min(old - 1, round(layer * old / new)) for layer in range(new)]


def _blocks(blocks: Index, inside: Index, size: int) -> Index:
    """The places of `blocks` of `size` places, of each the places `inside`."""
    index: Index = (blocks[:, None] * size + inside).reshape(-1)
    return index


def _offset(config: ModelConfig) -> int:
    assert config.positions.type == "learned"
    return config.positions.offset


def _num_stored_layers(config: ModelConfig) -> int:
    """Layers with weights of their own."""
    return config.layer_group(config.num_layers - 1) + 1
