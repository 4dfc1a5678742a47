"""How much the compressed record batches of an Arrow stream expand to, without decompressing them.

Arrow allocates what each compressed buffer says in its first eight bytes. The messages' metadata
are flatbuffers (format: Arrow's ``Message.fbs``), of which only the buffers' places are read.
"""

import struct
from typing import Any

import pyarrow as pa

from data_prep.readers.compression import is_damage

_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
_HEADER_TYPE, _HEADER = 1, 2
_DICTIONARY_DATA = 1
_BUFFERS, _COMPRESSION = 2, 3


def largest_expanded_bytes(stream: Any) -> int:
    """Size of the largest compressed batch of an Arrow stream once decompressed, bytes; 0 if none
    is compressed. Ends at damage, where Arrow cannot read on either."""
    largest = 0
    try:
        messages = pa.ipc.MessageReader.open_stream(stream)
        while True:
            message = messages.read_next_message()
            largest = max(largest, _expanded_bytes(memoryview(message.metadata), message.body))
    except (StopIteration, struct.error, EOFError, OSError, pa.ArrowException) as error:
        if not is_damage(error):
            raise
        return largest


def _expanded_bytes(metadata: memoryview, body: Any) -> int:
    root = _Table(metadata, _number("<I", metadata, 0))
    kind = root.scalar(_HEADER_TYPE, "<B")
    if kind not in (_DICTIONARY_BATCH, _RECORD_BATCH):
        return 0
    batch = root.table(_HEADER)
    if kind == _DICTIONARY_BATCH and batch is not None:
        batch = batch.table(_DICTIONARY_DATA)
    if batch is None or batch.table(_COMPRESSION) is None:
        return 0
    total = 0
    view = memoryview(body) if body is not None else memoryview(b"")
    for offset, length in batch.buffers(_BUFFERS):
        if length:
            total += max(_number("<q", view, offset), length)
    return total


class _Table:
    """A flatbuffers table at a byte of the metadata."""

    def __init__(self, content: memoryview, at: int) -> None:
        self._content, self._at = content, at
        self._fields = at - _number("<i", content, at)
        self._size = _number("<H", content, self._fields)

    def _place(self, field: int) -> int | None:
        slot = 4 + 2 * field
        offset = _number("<H", self._content, self._fields + slot) if slot < self._size else 0
        return self._at + offset if offset else None

    def scalar(self, field: int, kind: str) -> int:
        """A number, 0 if it is not given."""
        place = self._place(field)
        return 0 if place is None else _number(kind, self._content, place)

    def table(self, field: int) -> "_Table | None":
        """A table, None if it is not given."""
        place = self._place(field)
        if place is None:
            return None
        return _Table(self._content, place + _number("<I", self._content, place))

    def buffers(self, field: int) -> list[tuple[int, int]]:
        """(offset, length) of every buffer."""
        place = self._place(field)
        if place is None:
            return []
        start = place + _number("<I", self._content, place)
        count = _number("<I", self._content, start)
        return [
            struct.unpack_from("<qq", self._content, start + 4 + 16 * number)
            for number in range(count)
        ]


def _number(kind: str, content: memoryview, at: int) -> int:
    value: int = struct.unpack_from(kind, content, at)[0]
    return value
