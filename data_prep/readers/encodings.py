"""Texts that are not in UTF-8: transcoded by a setting or a byte order mark."""

import codecs
from collections.abc import Iterator
from itertools import chain
from typing import Annotated

from pydantic import AfterValidator

from data_prep.readers.compression import Chunk
from data_prep.readers.kinds import WIDE_HEAD_BYTES, encoding_by
from data_prep.readers.likely_encoding import NOT_VALID

_MARK_NOT_VALID = "data_prep_mark_not_valid"
"""Name of the error handler: what is not valid in an encoding is not valid in UTF-8 either, so that
the record that holds it is found."""
_WIDE = ("utf-16", "utf-32")


def _checked(name: str) -> str:
    try:
        decoder = codecs.getincrementaldecoder(name)("replace")  # IDNA knows no other handler
        if isinstance(decoder.decode(b"\xff", final=True), str):
            return name
    except (LookupError, UnicodeError, TypeError, AssertionError):
        decoder = None
    raise ValueError(
        f"{name!r} is no encoding of texts that Python knows; for example utf-16, cp1252, latin-1, "
        "shift_jis, gb18030, koi8-r (docs.python.org/3/library/codecs.html#standard-encodings)"
    )


Encoding = Annotated[str, AfterValidator(_checked)]
"""Name of a character encoding."""


def is_utf_8(encoding: str | None) -> bool:
    """Whether content in `encoding` needs no transcoding."""
    return encoding is None or codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii")


def transcoded(chunks: Iterator[Chunk], encoding: str | None = None) -> Iterator[Chunk]:
    """The chunks with their content in UTF-8; without `encoding`, a byte order mark decides."""
    if encoding is None or codecs.lookup(encoding).name in _WIDE:
        first, head = [], b""
        for chunk in chunks:
            first.append(chunk)
            head += chunk.content[:WIDE_HEAD_BYTES]
            if len(head) >= WIDE_HEAD_BYTES or chunk.error is not None:
                break
        encoding = encoding_by(head) or (encoding and f"{codecs.lookup(encoding).name}-le")
        chunks = chain(first, chunks)
    if is_utf_8(encoding):
        return chunks
    assert encoding is not None
    return _decoded(chunks, encoding)


def _decoded(chunks: Iterator[Chunk], encoding: str) -> Iterator[Chunk]:
    codecs.register_error(_MARK_NOT_VALID, _replacement)
    decoder = codecs.getincrementaldecoder(encoding)(_MARK_NOT_VALID)
    raw_at, has_text = 0, False
    for raw_at, content, error in chunks:
        if error is not None:
            decoder.reset()
            yield Chunk(raw_at, b"", error)
            continue
        text = decoder.decode(content)
        if text and not has_text:
            text, has_text = text.removeprefix("\ufeff"), True
        yield Chunk(raw_at, _in_utf_8(text))
    if rest := decoder.decode(b"", final=True):
        yield Chunk(raw_at, _in_utf_8(rest))


def _in_utf_8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _replacement(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return NOT_VALID.decode("utf-8", "surrogatepass"), error.end
