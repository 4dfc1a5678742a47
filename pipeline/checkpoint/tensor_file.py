"""Reads tensors and slices of tensors of a safetensors file by ``pread``.

The safetensors package maps the file to memory: one that becomes shorter, or a disk that fails,
then ends the process by SIGBUS. The format: the length of the header in 8 bytes, a JSON header with
type, shape and place of every tensor, the bytes of all tensors.
"""

import math
from itertools import pairwise
from typing import Annotated, BinaryIO, Literal

import torch
from pydantic import Field, TypeAdapter, ValidationError

from configs.load import Config, UserError
from data_prep.dataset.files import first_error, parse_json, read_at

MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors package."""
_LENGTH_BYTES = 8
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_ADVICE = "check the disk, or restore the file from a copy"

_Offset = Annotated[int, Field(ge=0, le=1 << 53)]


class _Entry(Config):
    """A tensor in the header."""

    dtype: Literal["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"]
    shape: tuple[_Offset, ...]
    data_offsets: tuple[_Offset, _Offset]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * _DTYPES[self.dtype].itemsize


_HEADER = TypeAdapter(dict[str, _Entry])


class TensorFile:
    """The tensors of one open safetensors file, which is closed with this object."""

    def __init__(self, file: BinaryIO) -> None:
        """Reads the header of `file`; raises UserError if it is damaged."""
        self._file = file
        file.seek(0, 2)
        self._bytes = file.tell()
        length = int.from_bytes(self._content(0, _LENGTH_BYTES), "little")
        if length > min(MAX_HEADER_BYTES, self._bytes - _LENGTH_BYTES):
            raise self._damaged(f"a header of {length:,} bytes in {self._bytes:,} bytes")
        self._data_at = _LENGTH_BYTES + length
        try:
            tree = parse_json(self._content(_LENGTH_BYTES, length))
            tree.pop("__metadata__", None)
            self._entries = _HEADER.validate_python(tree)
        except ValueError as error:
            what = first_error(error) if isinstance(error, ValidationError) else error
            raise self._damaged(f"its header cannot be read: {what}") from None
        self._check_places()

    def names(self) -> list[str]:
        """The names of all tensors."""
        return list(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; UserError if the file has none of that name."""
        return self._entry(name).shape

    def read(self, name: str) -> torch.Tensor:
        """A whole tensor."""
        entry = self._entry(name)
        result = torch.empty(entry.shape, dtype=_DTYPES[entry.dtype])
        self._fill(_content_of(result), self._data_at + entry.data_offsets[0])
        return result

    def read_flat(self, name: str, start: int, end: int) -> torch.Tensor:
        """The elements [start, end) of a tensor, [end - start]; reads nothing else."""
        entry = self._entry(name)
        if end > math.prod(entry.shape):
            raise self._damaged(f"{name}: {entry.shape} has no {end:,} elements")
        result = torch.empty(end - start, dtype=_DTYPES[entry.dtype])
        offset = self._data_at + entry.data_offsets[0] + start * result.itemsize
        self._fill(_content_of(result), offset)
        return result

    def read_slice(self, name: str, dim: int, start: int, end: int) -> torch.Tensor:
        """The part [start, end) of a tensor along `dim`; reads nothing else."""
        entry = self._entry(name)
        before, length, after = entry.shape[:dim], entry.shape[dim], entry.shape[dim + 1 :]
        assert 0 <= start <= end <= length
        result = torch.empty((*before, end - start, *after), dtype=_DTYPES[entry.dtype])
        gap_bytes = math.prod(after) * result.itemsize
        piece_bytes = (end - start) * gap_bytes
        offset = self._data_at + entry.data_offsets[0] + start * gap_bytes
        content = _content_of(result)
        if end - start == length:
            piece_bytes = len(content)  # one piece, without gaps
        for place in range(0, len(content), piece_bytes or 1):
            self._fill(content[place : place + piece_bytes], offset)
            offset += length * gap_bytes
        return result

    def _fill(self, content: memoryview, offset: int) -> None:
        read_at(self._file, content, offset, _ADVICE)

    def _content(self, offset: int, length: int) -> bytes:
        buffer = bytearray(length)
        self._fill(memoryview(buffer), offset)
        return bytes(buffer)

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise self._damaged(f"no tensor {name}")
        return self._entries[name]

    def _check_places(self) -> None:
        """Raises UserError unless the tensors fill the file without gaps and overlaps."""
        places = sorted(entry.data_offsets for entry in self._entries.values())
        edges = [(0, 0), *places, (self._bytes - self._data_at,) * 2]
        for name, entry in self._entries.items():
            start, end = entry.data_offsets
            if end - start != entry.num_bytes:
                raise self._damaged(f"{name}: {end - start:,} bytes for the shape {entry.shape}")
        if any(end != start for (_, end), (start, _) in pairwise(edges)):
            raise self._damaged("its tensors do not fill it")

    def _damaged(self, what: str) -> UserError:
        return UserError(f"{self._file.name}: damaged safetensors file: {what}; {_ADVICE}")


def _content_of(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, writable."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy().data)
