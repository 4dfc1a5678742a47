"""Fragments: what one rank holds of a parameter, and which file of a checkpoint holds which.

A tensor-parallel shard of a parameter, without vocabulary padding, is seen as a flat array. ZeRO
divides it over data-parallel ranks, and each of them writes its range to a file of its own::

    parameter [4, 3]      tensor-parallel rank 0: rows 0 and 1, elements 0 to 5
                          tensor-parallel rank 1: rows 2 and 3, elements 0 to 5
    file 0 (tp 0, dp 0)   [0, 4) of rank 0's shard
    file 1 (tp 1, dp 0)   [0, 4) of rank 1's
    file 2 (tp 0, dp 1)   [4, 6) of rank 0's
    file 3 (tp 1, dp 1)   [4, 6) of rank 1's

``fragments.json`` lists the ranges of all files, so that a reader opens only those that it needs.
"""

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from configs.load import Config, UserError
from data_prep.dataset.files import first_error, is_missing, open_inside, parse_json, with_name
from pipeline.checkpoint.records import Count, ParameterRecord, Size
from pipeline.checkpoint.tensor_file import TensorFile

FRAGMENTS_NAME = "fragments.json"


@dataclass(frozen=True)
class Fragment:
    """What a rank holds of a parameter."""

    start: int
    """Its first element in the flat shard of the rank's tensor-parallel rank."""
    tensors: Mapping[str, Tensor]
    """By state key: fp32 [length], or of the shard's shape where it is the whole shard."""

    @property
    def length(self) -> int:
        """Elements."""
        return next(iter(self.tensors.values())).numel()


class FragmentedParameter(Config):
    """Where a parameter is."""

    keys: tuple[str, ...]
    """What is held of it: "weight" and moments."""
    pieces: tuple[tuple[Count, Count, Size], ...]
    """(number of the file, first element in the shard, elements)."""


_TABLE = TypeAdapter(dict[str, FragmentedParameter])


def table_json(parts: Sequence[Mapping[str, tuple[int, int, Sequence[str]]]]) -> str:
    """The content of ``fragments.json``; `parts`: by file, (start, length, keys) of parameters."""
    table: dict[str, dict[str, list[object]]] = {}
    for file, part in enumerate(parts):
        for name, (start, length, keys) in part.items():
            record = table.setdefault(name, {"keys": list(keys), "pieces": []})
            assert record["keys"] == list(keys), f"{name}: {keys} instead of {record['keys']}"
            assert length > 0, f"{name}: file {file} holds nothing of it"
            record["pieces"].append([file, start, length])
    return json.dumps(table, separators=(",", ":"))


def read_table(folder: Path, name: str) -> dict[str, FragmentedParameter]:
    """The content of ``fragments.json`` of a checkpoint; raises UserError if it is damaged."""
    path = folder / name
    try:
        with open_inside(folder, name) as file:
            return _TABLE.validate_python(parse_json(file.read()))
    except ValidationError as error:
        raise UserError(f"{path}: damaged checkpoint: {first_error(error)}") from None
    except ValueError as error:
        raise UserError(f"{path}: damaged checkpoint: {error}") from None
    except OSError as error:
        if not is_missing(error):
            raise with_name(error, path) from None
        raise UserError(f"{path}: damaged checkpoint: {error}") from None


class FragmentedShard:
    """The tensors of one tensor-parallel rank, in files of several data-parallel ranks.

    It has the methods of `TensorFile` that a reader of checkpoints calls.
    """

    def __init__(
        self,
        open_file: Callable[[int], TensorFile],
        table: Mapping[str, FragmentedParameter],
        parameters: Mapping[str, ParameterRecord],
        tp_rank: int,
        tp_size: int,
        folder: Path,
    ) -> None:
        """Raises UserError for ranges that do not make whole shards.

        `open_file` gives a file of the checkpoint by its number, which is that of the rank that
        wrote it; consecutive ranks are tensor-parallel peers.
        """
        self._open = open_file
        self._folder = folder
        self._keys = {name: frozenset(found.keys) for name, found in table.items()}
        self._pieces: dict[str, list[tuple[int, int, int]]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for name, found in table.items():
            pieces = sorted(
                (start, length, file)
                for file, start, length in found.pieces
                if file % tp_size == tp_rank
            )
            self._pieces[name] = pieces
            self._shapes[name] = self._shape_of(name, pieces, parameters)

    def _shape_of(
        self,
        name: str,
        pieces: Sequence[tuple[int, int, int]],
        parameters: Mapping[str, ParameterRecord],
    ) -> tuple[int, ...]:
        """The shape of a shard, whose ranges follow each other without gaps and overlaps."""
        if name not in parameters:
            raise self._damaged(f"{name} is no parameter of the manifest")
        end = 0
        for start, length, _ in pieces:
            if start != end:
                raise self._damaged(f"{name}: elements {end:,} to {start:,} are not there once")
            end += length
        shape, dim = parameters[name].shape, parameters[name].partition_dim
        if dim is None:  # replicated: one tensor-parallel rank writes it
            if end not in (0, math.prod(shape)):
                raise self._damaged(f"{name}: {end:,} elements, {list(shape)} has others")
            return shape if end else (0,)
        others = math.prod(shape) // shape[dim]
        if end % others:
            raise self._damaged(f"{name}: {end:,} elements are no slices of {list(shape)}")
        return (*shape[:dim], end // others, *shape[dim + 1 :])

    def __contains__(self, key: str) -> bool:
        state_key, name = key.split("/", 1)
        return state_key in self._keys.get(name, ())

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a tensor; UserError if there is none of that name."""
        name = self._name_of(key)
        return self._shapes[name]

    def read(self, key: str) -> Tensor:
        """A whole tensor."""
        shape = self.shape(key)
        return self.read_flat(key, 0, math.prod(shape)).view(shape)

    def read_slice(self, key: str, dim: int, start: int, end: int) -> Tensor:
        """The part [start, end) of a tensor along `dim`."""
        shape = self.shape(key)
        if dim > 0:  # it lies in as many places as there are rows
            return self.read(key).narrow(dim, start, end - start)
        row = math.prod(shape[1:])
        return self.read_flat(key, start * row, end * row).view(end - start, *shape[1:])

    def read_flat(self, key: str, start: int, end: int) -> Tensor:
        """The elements [start, end) of a tensor, [end - start]; reads nothing else."""
        pieces = self._pieces[self._name_of(key)]
        result = torch.empty(end - start)
        first = max(0, bisect_right(pieces, start, key=lambda piece: piece[0]) - 1)
        filled = 0
        for piece_start, length, file in pieces[first:]:
            low, high = max(start, piece_start), min(end, piece_start + length)
            if low >= high:
                break
            values = self._open(file).read_flat(key, low - piece_start, high - piece_start)
            result[low - start : high - start] = values
            filled += high - low
        assert filled == end - start, f"{key}: {filled} of {end - start} elements"
        return result

    def _name_of(self, key: str) -> str:
        if key not in self:
            raise self._damaged(f"no tensor {key}")
        return key.split("/", 1)[1]

    def _damaged(self, what: str) -> UserError:
        return UserError(f"{self._folder / FRAGMENTS_NAME}: damaged checkpoint: {what}")
