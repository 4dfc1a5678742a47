"""Writes a safetensors file tensor by tensor, so that only one has to fit into memory.

The safetensors package needs all tensors at once. `pipeline.checkpoint.tensor_file` describes the
format.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoint.records import FP32_BYTES, FileRecord

_ALIGNMENT_BYTES = 8


class TensorWriter:
    """Writes fp32 tensors of known shapes to an open file, in the order of `shapes`."""

    def __init__(self, file: BinaryIO, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._left = [(name, tuple(shape)) for name, shape in shapes.items()]
        header, offset = {}, 0
        for name, shape in self._left:
            end = offset + math.prod(shape) * FP32_BYTES
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT_BYTES)
        self._write(len(text).to_bytes(8, "little") + text)

    def write(self, name: str, values: NDArray[np.float32]) -> None:
        """Appends the next tensor."""
        expected = self._left.pop(0)
        assert expected == (name, values.shape), f"{name} {values.shape} instead of {expected}"
        self._write(np.ascontiguousarray(values, dtype="<f4").data)

    def record(self, path: Path) -> FileRecord:
        """What was written, to the file that becomes `path`."""
        assert not self._left, f"not written: {self._left}"
        return FileRecord(path=path.name, bytes=self._bytes, sha256=self._digest.hexdigest())

    def _write(self, content: Any) -> None:
        self._file.write(content)
        self._digest.update(content)
        self._bytes += memoryview(content).nbytes
