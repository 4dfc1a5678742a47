"""Record batches of Arrow files: the stream format, the file format, and Feather.

The file format is a stream between a magic number and a footer that says where the batches are. If
the footer is missing, as in a file that is cut, the stream is read up to where it ends::

    stream format          |schema|batch|batch|end|
    file format (Feather)  |ARROW1..|schema|batch|batch|end|footer|ARROW1|
    Feather, version 1     |FEA1|columns|footer|FEA1|
"""

import warnings
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from data_prep.readers.arrow_batches import largest_expanded_bytes
from data_prep.readers.compression import Damage, is_damage

_FILE_MAGIC, _OLD_FEATHER = b"ARROW1", b"FEA1"
_STREAM_AT = 8
_OLD_FEATHER_ROWS = 1 << 16
DAMAGED = "damaged or truncated Arrow file"
"""The reason under which a damaged Arrow file is counted."""


class ArrowFile:
    """An open Arrow file. Raises pyarrow's errors if nothing of it can be read."""

    def __init__(self, stream: Any, num_bytes: int) -> None:
        """`stream` is a file of pyarrow's (a memory map), or a Python file at a URL."""
        self._stream, self._num_bytes = stream, num_bytes
        head = stream.read(_STREAM_AT)
        self._has_magic = head.startswith(_FILE_MAGIC)
        self._reader = self._opened(head)
        self.schema: pa.Schema = self._reader.schema

    def _opened(self, head: bytes) -> Any:
        self._stream.seek(0)
        if head.startswith(_OLD_FEATHER):
            return _OldFeather(self._stream)
        if not self._has_magic:
            return pa.ipc.open_stream(self._stream)
        try:
            return pa.ipc.open_file(self._stream)
        except pa.ArrowException:
            self._stream.seek(_STREAM_AT)
            return pa.ipc.open_stream(self._stream)

    def largest_expanded_bytes(self) -> int:
        """See `arrow_batches.largest_expanded_bytes`; reads the file up to its end."""
        if isinstance(self._reader, _OldFeather):
            return 0
        position = self._stream.tell()
        self._stream.seek(_STREAM_AT if self._has_magic else 0)
        largest = largest_expanded_bytes(self._stream)
        self._stream.seek(position)
        return largest

    def batches(self) -> Iterator[pa.RecordBatch | Damage]:
        """The batches in their order; damage stands for batches that cannot be read."""
        if isinstance(self._reader, pa.ipc.RecordBatchFileReader):
            return self._numbered_batches()
        return self._stream_batches()

    def _numbered_batches(self) -> Iterator[pa.RecordBatch | Damage]:
        count = self._reader.num_record_batches
        for number in range(count):
            try:
                yield self._reader.get_batch(number)
            except (pa.ArrowException, EOFError, OSError) as error:
                if not is_damage(error):
                    raise
                yield Damage(str(error), self._num_bytes // count, reason=DAMAGED)

    def _stream_batches(self) -> Iterator[pa.RecordBatch | Damage]:
        while True:
            at = self._stream.tell()
            try:
                batch = self._reader.read_next_batch()
            except StopIteration:
                rest = self._num_bytes - self._stream.tell()
                if self._has_magic:  # the footer was not found
                    lost = max(self._num_bytes - at, 0)
                    yield Damage("no footer", lost, is_cut=True, reason=DAMAGED)
                elif rest > 0 and not isinstance(self._reader, _OldFeather):
                    detail = "other content, such as a second stream, after the end of the stream"
                    yield Damage(detail, rest, reason=DAMAGED)
                return
            except (pa.ArrowException, EOFError, OSError) as error:
                if not is_damage(error):
                    raise
                is_cut = self._stream.tell() >= self._num_bytes
                lost = max(self._num_bytes - at, 0)
                yield Damage(str(error), lost, is_cut, DAMAGED)
                return
            yield batch


class _OldFeather:
    """A file of Feather's first version, which is one table; not compressed."""

    def __init__(self, stream: Any) -> None:
        from pyarrow import feather

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            table = feather.read_table(stream)
        self.schema = table.schema
        self._batches = iter(table.to_batches(_OLD_FEATHER_ROWS))

    def read_next_batch(self) -> pa.RecordBatch:
        """The next batch; raises StopIteration after the last."""
        return next(self._batches)
