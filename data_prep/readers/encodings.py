"""Texts that are not in UTF-8: transcoded by a setting or a byte order mark."""

import codecs
from collections.abc import Iterator

from data_prep.readers.compression import Chunk
from data_prep.readers.kinds import encoding_by

_NOT_VALID = "data_prep_not_valid"
"""Name of the error handler: what is not valid in an encoding is not valid in UTF-8 either, so that
the record that holds it is found."""
_MARK_BYTES = 4


def is_utf_8(encoding: str | None) -> bool:
    """Whether content in `encoding` needs no transcoding."""
    return encoding is None or codecs.lookup(encoding).name in ("utf-8", "ascii")


def transcoded(chunks: Iterator[Chunk], encoding: str | None = None) -> Iterator[Chunk]:
    """The chunks with their content in UTF-8; without `encoding`, a byte order mark decides."""
    if encoding is None:
        held, head = [], b""
        for chunk in chunks:
            held.append(chunk)
            head += chunk.content[:_MARK_BYTES]
            if len(head) >= _MARK_BYTES or chunk.error is not None:
                break
        encoding = encoding_by(head)
        chunks = _after(held, chunks)
    if is_utf_8(encoding):
        return chunks
    assert encoding is not None
    return _decoded(chunks, encoding)


def _after(first: list[Chunk], rest: Iterator[Chunk]) -> Iterator[Chunk]:
    yield from first
    yield from rest


def _decoded(chunks: Iterator[Chunk], encoding: str) -> Iterator[Chunk]:
    codecs.register_error(_NOT_VALID, _replacement)
    decoder = codecs.getincrementaldecoder(encoding)(_NOT_VALID)
    raw_at = 0
    for raw_at, content, error in chunks:
        if error is not None:
            decoder.reset()
            yield Chunk(raw_at, b"", error)
        else:
            yield Chunk(raw_at, _in_utf_8(decoder.decode(content)))
    if rest := decoder.decode(b"", final=True):
        yield Chunk(raw_at, _in_utf_8(rest))


def _in_utf_8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _replacement(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\udcff", error.end
