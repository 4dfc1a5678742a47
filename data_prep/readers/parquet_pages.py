"""How much the pages of a Parquet file expand to, read from their headers without decompressing.

The sizes in a file's footer need not be those of its pages, and a page of a few kilobytes may hold
two gigabytes. So the header before each page of a column is read (format: parquet-format's
``PageHeader``, in Thrift's compact protocol)::

    column chunk  |header|page     |header|page   |header|page    |
"""

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

_FIRST_READ_BYTES, _MAX_HEADER_BYTES = 1 << 9, 1 << 26
_UNCOMPRESSED_SIZE, _COMPRESSED_SIZE = 2, 3
_DATA_PAGE, _DATA_PAGE_V2 = 5, 8
_NUM_VALUES = 1
_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = (
    *(0, 1, 2, 3, 7, 8, 9, 10, 11, 12),
)
_MAX_DEPTH = 64


class PageError(ValueError):
    """The header of a page is damaged."""


class PageSize(NamedTuple):
    """What the header of a page states, bytes."""

    expanded: int
    stored: int
    num_values: int
    """0 for a dictionary."""


def pages_of(stream: BinaryIO, column: Any) -> Iterator[PageSize]:
    """The sizes of the pages of a column chunk (a pyarrow `ColumnChunkMetaData`).

    Ends at a header that is damaged, where Arrow cannot read on either.
    """
    starts = (column.dictionary_page_offset, column.data_page_offset)
    position = min((start for start in starts if start), default=0)
    num_values = 0
    while num_values < column.num_values:
        try:
            header, num_bytes = _header_at(stream, position)
        except PageError:
            return
        page = header.get(_DATA_PAGE) or header.get(_DATA_PAGE_V2)
        values = page.get(_NUM_VALUES) if isinstance(page, dict) else 0
        size: Any = (header.get(_UNCOMPRESSED_SIZE), header.get(_COMPRESSED_SIZE), values)
        if not all(isinstance(number, int) and number >= 0 for number in size):
            return
        yield PageSize(*size)
        num_values += size[2]
        position += num_bytes + size[1]


def _header_at(stream: BinaryIO, position: int) -> tuple[dict[int, Any], int]:
    """(fields, size in bytes) of the page header at a byte of the file."""
    num_bytes = _FIRST_READ_BYTES
    while True:
        stream.seek(position)
        content = stream.read(num_bytes)
        reader = _CompactReader(content)
        try:
            return reader.struct(), reader.at
        except IndexError:
            if len(content) < num_bytes or num_bytes >= _MAX_HEADER_BYTES:
                raise PageError(f"a page header at byte {position} has no end") from None
        num_bytes *= 8


class _CompactReader:
    """Reads Thrift's compact protocol; raises IndexError at the end of the content."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.at = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """The fields by their numbers; texts, lists and maps are skipped."""
        if depth > _MAX_DEPTH:
            raise PageError("page header nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != _STOP:
            number = number + (head >> 4) if head >> 4 else self._signed()
            fields[number] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind == _BYTE:
            return self._byte()
        if kind < _DOUBLE:
            return self._signed()
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind == _DOUBLE:
            return struct.unpack("<d", self._bytes(8))[0]
        if kind == _BINARY:
            self._bytes(self._unsigned())
        elif kind in (_LIST, _SET):
            head = self._byte()
            size = head >> 4 if head >> 4 < 15 else self._unsigned()
            for _ in range(size):
                self._element(head & 15, depth)
        elif kind == _MAP:
            size = self._unsigned()
            kinds = self._byte() if size else 0
            for _ in range(size):
                self._element(kinds >> 4, depth)
                self._element(kinds & 15, depth)
        else:
            raise PageError(f"page header with a value of the unknown type {kind}")
        return None

    def _element(self, kind: int, depth: int) -> None:
        """Skips an element of a list; booleans take a byte there."""
        if kind in (_TRUE, _FALSE):
            self._byte()
        else:
            self._value(kind, depth + 1)

    def _byte(self) -> int:
        self.at += 1
        return self._content[self.at - 1]

    def _bytes(self, num_bytes: int) -> bytes:
        self.at += num_bytes
        if self.at > len(self._content):
            raise IndexError
        return self._content[self.at - num_bytes : self.at]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise PageError("page header with a damaged number")

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
