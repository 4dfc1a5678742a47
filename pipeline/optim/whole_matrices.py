"""The matrices of a flat partition, each whole on one rank: collected, changed, given back.

Under ZeRO and tensor parallelism a matrix lies in pieces on all ranks. An update that needs the
whole matrix is computed by one rank, its owner; the matrices are divided over all ranks, so that
each computes about the same. Two all-to-alls move the pieces to the owners and back::

                      rank 0          rank 1
    pieces            A0 B0 C0        A1 B1 C1
    after collect     A0 A1           B0 B1 C0 C1       owners: A rank 0, B and C rank 1
    after give back   A0 B0 C0        A1 B1 C1          changed
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor

from model.parallel.json_exchange import gather_json
from model.parameters import ParameterSpec


@dataclass(frozen=True)
class Piece:
    """A piece of a parameter's tensor-parallel shard in a flat partition."""

    parameter: int
    """Number of the parameter."""
    start: int
    """First element in the partition."""
    length: int
    """Elements; 0 where the rank holds none of the parameter."""
    offset: int = 0
    """Its first element in the flat shard."""


class MatrixExchange:
    """Moves the matrices of one partition between its pieces and the owners.

    Every method is a collective over all ranks.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        specs: Mapping[int, ParameterSpec],
        tp_size: int,
        device: torch.device,
    ) -> None:
        """`pieces` are those of this rank's partition, `specs` belong to the numbers of parameters.

        Consecutive ranks are tensor-parallel peers; `device` is where the collectives happen.
        """
        self._specs, self._tp_size, self._device = specs, tp_size, device
        self._rank, self._world_size = dist.get_rank(), dist.get_world_size()
        self._pieces = {piece.parameter: piece for piece in pieces if piece.length}
        held = gather_json([[piece.parameter, piece.length] for piece in self._pieces.values()])
        self._lengths: list[dict[int, int]] = [dict(map(tuple, of)) for of in held]
        """By rank: elements of each parameter that it holds."""
        parameters = sorted({number for lengths in self._lengths for number in lengths})
        self._owned = owners(
            {number: specs[number].full_shape for number in parameters}, self._world_size
        )
        """By rank: the numbers of the parameters that it owns."""

    def collect(self, values: Tensor) -> dict[int, Tensor]:
        """The matrices that this rank owns, each [rows, columns], of `values` [partition]."""
        pieces = [
            values.narrow(0, self._pieces[number].start, self._pieces[number].length)
            for owned in self._owned
            for number in owned
            if number in self._pieces
        ]
        received = self._exchange(
            pieces, self._sent_to_owners(self._rank), self._received_by_owner()
        )
        shards: dict[int, list[list[Tensor]]] = {
            number: [[] for _ in range(self._tp_size)] for number in self._owned[self._rank]
        }
        at = 0
        for rank, lengths in enumerate(self._lengths):
            for number in self._owned[self._rank]:
                length = lengths.get(number, 0)
                shards[number][rank % self._tp_size].append(received.narrow(0, at, length))
                at += length
        return {number: self._whole(number, of) for number, of in shards.items()}

    def give_back(self, matrices: Mapping[int, Tensor], values: Tensor) -> None:
        """Writes the pieces of the owners' `matrices` to `values` [partition]."""
        pieces = []
        flats = {
            number: [self._shard(number, matrix, tp_rank) for tp_rank in range(self._tp_size)]
            for number, matrix in matrices.items()
        }
        given = {number: [0] * self._tp_size for number in matrices}
        for rank, lengths in enumerate(self._lengths):
            tp_rank = rank % self._tp_size
            for number in self._owned[self._rank]:
                length, at = lengths.get(number, 0), given[number][tp_rank]
                pieces.append(_padded(flats[number][tp_rank][at : at + length], length))
                given[number][tp_rank] = at + length
        received = self._exchange(
            pieces, self._received_by_owner(), self._sent_to_owners(self._rank)
        )
        at = 0
        for owned in self._owned:
            for number in owned:
                if number in self._pieces:
                    piece = self._pieces[number]
                    part = received.narrow(0, at, piece.length)
                    values.narrow(0, piece.start, piece.length).copy_(part)
                    at += piece.length

    def _exchange(self, pieces: list[Tensor], sent: list[int], received: list[int]) -> Tensor:
        """What all ranks sent to this one, rank by rank; `sent` and `received` are elements."""
        flat = torch.cat(pieces) if pieces else torch.empty(0)
        output = torch.empty(sum(received), dtype=torch.float32, device=self._device)
        dist.all_to_all_single(output, flat.to(self._device, torch.float32), received, sent)
        return output

    def _sent_to_owners(self, rank: int) -> list[int]:
        """Elements that `rank` holds of the parameters of each owner."""
        lengths = self._lengths[rank]
        return [sum(lengths.get(number, 0) for number in owned) for owned in self._owned]

    def _received_by_owner(self) -> list[int]:
        """Elements that each rank holds of the parameters that this rank owns."""
        owned = self._owned[self._rank]
        return [sum(lengths.get(number, 0) for number in owned) for lengths in self._lengths]

    def _whole(self, number: int, shards: list[list[Tensor]]) -> Tensor:
        """The matrix of the pieces of each tensor-parallel rank, which are in their order."""
        spec = self._specs[number]
        shape = self._local_shape(spec)
        locals_ = [torch.cat(pieces)[: prod(shape)].view(shape) for pieces in shards]
        return locals_[0] if spec.partition_dim is None else torch.cat(locals_, spec.partition_dim)

    def _shard(self, number: int, matrix: Tensor, tp_rank: int) -> Tensor:
        """The flat shard of a tensor-parallel rank."""
        spec = self._specs[number]
        dim = spec.partition_dim
        if dim is None:
            return matrix.reshape(-1)
        length = self._local_shape(spec)[dim]
        return matrix.narrow(dim, tp_rank * length, length).reshape(-1)

    def _local_shape(self, spec: ParameterSpec) -> list[int]:
        shape = list(spec.full_shape)
        if spec.partition_dim is not None:
            shape[spec.partition_dim] //= self._tp_size
        return shape


def owners(shapes: Mapping[int, Sequence[int]], world_size: int) -> list[list[int]]:
    """The parameters of each rank, divided so that orthogonalising them costs about the same.

    The cost of a matrix is its elements times its shorter side.
    """
    costs = {number: prod(shape) * min(shape) for number, shape in shapes.items()}
    loads = [0] * world_size
    owned: list[list[int]] = [[] for _ in loads]
    for number in sorted(costs, key=lambda number: (-costs[number], number)):
        rank = loads.index(min(loads))
        loads[rank] += costs[number]
        owned[rank].append(number)
    return [sorted(numbers) for numbers in owned]


def _padded(values: Tensor, length: int) -> Tensor:
    """`values` with zeros up to `length`: ZeRO 3 pads the last piece of a parameter."""
    return torch.nn.functional.pad(values, (0, length - len(values)))
