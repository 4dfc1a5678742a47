"""HTTP responses as web archives hold them: status, fields, and the body without its encodings.

Archives keep what the server sent: a body may be chunked (its transfer encoding), compressed once
or more (its content encodings), both, or neither although its fields say so.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import brotli

from data_prep.readers.compression import READ_ERRORS
from data_prep.readers.decompressors import (
    Decompressor,
    DeflateStream,
    GzipMember,
    ZlibStream,
)
from data_prep.readers.frames import ZstandardFrame

_STATUS_LINE = re.compile(
    rb"\s{0,8}(?:HTTP/\d(?:\.\d)?|ICY)[ \t]+(\d{3})(?=[ \t\r\n]|\Z)", re.IGNORECASE
)
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9a-fA-F]{1,12})[ \t]*(?:;[^\r\n]{0,4096})?\r?\n")
_LINE_END = re.compile(rb"\r?\n|\Z")
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_SNIFFED_BYTES = 1445
_NO_ENCODING = ("", "identity", "none", "chunked")
_MAX_ENCODINGS = 8
_MAX_INTERIM = 8
_MAX_HEAD_BYTES = 1 << 20
_STEP_BYTES = 1 << 20
_BODY_ERRORS = (*READ_ERRORS, brotli.error)


class BodyError(ValueError):
    """A body cannot be decoded; its text says why."""


class BodyTooLongError(BodyError):
    """A body expands to more than allowed."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__("too long")
        self.num_bytes = num_bytes


class Response(NamedTuple):
    """An HTTP response."""

    status: int
    fields: dict[str, str]
    """By name, in lower case; what occurs several times is joined by commas."""
    body: bytes
    """As the archive holds it."""


def response_of(content: bytes) -> Response | None:
    """The response that `content` starts with, or that follows interim ones (100 Continue, 103
    Early Hints); None if there is no status line.

    Raises BodyError for a damaged header.
    """
    response = _first_response(content)
    for _ in range(_MAX_INTERIM):
        if response is None or response.status // 100 != 1 or response.status == 101:
            break
        following = _first_response(response.body)
        if following is None:
            break
        response = following
    return response


def _first_response(content: bytes) -> Response | None:
    status = _STATUS_LINE.match(content)
    if status is None:
        return None
    end = _HEAD_END.search(content, status.end(), _MAX_HEAD_BYTES)
    if end is None and b"\0" in content:
        raise BodyError("the HTTP header has no end")
    head = content[: _MAX_HEAD_BYTES if end is None else end.start()]
    body = b"" if end is None else content[end.end() :]
    fields: dict[str, str] = {}
    name = ""
    for line in head[status.end() :].decode("latin-1").split("\n")[1:]:
        if line.startswith((" ", "\t")) and name:  # the rest of a folded field
            fields[name] += " " + line.strip()
            continue
        name, colon, value = line.partition(":")
        name = name.strip().lower() if colon else ""
        if name:
            fields[name] = f"{fields[name]}, {value.strip()}" if name in fields else value.strip()
    return Response(int(status[1]), fields, body)


def decoded_body(
    response: Response, max_bytes: int, is_text: bool = True, is_truncated: bool = False
) -> bytes:
    """The body without its transfer and content encodings.

    An encoding that is stated but absent is ignored; gzip of what should be text is undone though
    it is not stated. Of a body that the crawler has truncated, what can be decoded. Raises
    BodyTooLongError for a body of more than `max_bytes`, and BodyError for one that is damaged.
    """
    body = response.body
    transfer = _encodings(response.fields.get("transfer-encoding", ""))
    content = _encodings(response.fields.get("content-encoding", ""))
    if "chunked" in transfer:
        body = _without_chunks(body, is_truncated)
    encodings = [name for name in (*content, *transfer) if name not in _NO_ENCODING]
    if len(encodings) > _MAX_ENCODINGS:
        raise BodyError(f"{len(encodings)} encodings")
    for name in reversed(encodings):
        body = _without_encoding(body, name, max_bytes, is_truncated)
    for _ in range(_MAX_ENCODINGS):
        if not is_text or not body.startswith(b"\x1f\x8b\x08"):
            break
        body = _without_encoding(body, "gzip", max_bytes, is_truncated)
    return body


def looks_binary(content: bytes) -> bool:
    """Whether the start of `content` holds bytes that no text has (WHATWG, MIME Sniffing), but no
    byte order mark."""
    if content.startswith((b"\xfe\xff", b"\xff\xfe")):
        return False
    return _BINARY.search(content, 0, _SNIFFED_BYTES) is not None


def _encodings(field: str) -> list[str]:
    names = (name.strip(" \t\"'").lower() for name in field.split(","))
    return [name.removeprefix("x-") for name in names]


def _without_chunks(body: bytes, is_truncated: bool) -> bytes:
    """A chunked body as a whole; `body` itself if it is not chunked in fact."""
    chunks: list[bytes] = []
    at = 0
    while at < len(body):
        size = _CHUNK_SIZE.match(body, at)
        if size is None:
            if not chunks:
                return body
            if is_truncated:
                break
            raise BodyError("a chunk does not start with its size")
        num_bytes = int(size[1], 16)
        if num_bytes == 0:
            break
        chunk = body[size.end() : size.end() + num_bytes]
        end = _LINE_END.match(body, size.end() + num_bytes)
        if len(chunk) < num_bytes and not is_truncated:
            raise BodyError("a chunk is shorter than its size")
        if len(chunk) == num_bytes and end is None and not chunks:
            return body
        chunks.append(chunk)
        at = len(body) if end is None else end.end()
    return b"".join(chunks)


def _without_encoding(body: bytes, name: str, max_bytes: int, is_truncated: bool) -> bytes:
    """A body without its last encoding; `body` itself if it does not have this one."""
    known = _KNOWN.get(name, _Encoding(()))
    failure = BodyError(f"unknown encoding {name[:40]!r}")
    for number, new_decompressor in enumerate(known.decompressors):
        try:
            return _decompressed(new_decompressor, body, known.start, max_bytes, is_truncated)
        except BodyTooLongError:
            raise
        except BodyError as error:
            failure = failure if number else BodyError(f"{name}: {error}")
    if not body or not looks_binary(body):
        return body
    raise failure


def _decompressed(
    new_decompressor: Callable[[], Decompressor],
    body: bytes,
    start: bytes | None,
    max_bytes: int,
    is_truncated: bool,
) -> bytes:
    """What all members of `body` decompress to. What follows them is ignored, as browsers do."""
    pieces: list[bytes] = []
    num_bytes = 0
    while True:
        member = new_decompressor()
        try:
            for piece in member.pieces(body):
                pieces.append(piece)
                num_bytes += len(piece)
                if num_bytes > max_bytes:
                    raise BodyTooLongError(num_bytes)
        except _BODY_ERRORS as error:
            if not is_truncated or not num_bytes:
                raise BodyError(str(error)) from error
            break
        if not member.eof and not (is_truncated and num_bytes):
            raise BodyError("it ends too early")
        body = member.unused if member.eof else b""
        if not body or start is None or not body.startswith(start):
            break
    return b"".join(pieces)


class _Brotli:
    """A brotli stream."""

    unused = b""

    def __init__(self) -> None:
        self._inner = brotli.Decompressor()

    @property
    def eof(self) -> bool:
        """See `Decompressor`."""
        return bool(self._inner.is_finished())

    def pieces(self, raw: bytes) -> Iterator[bytes]:
        """See `Decompressor`."""
        yield self._inner.process(raw, output_buffer_limit=_STEP_BYTES)
        while not self._inner.is_finished():
            if content := self._inner.process(b"", output_buffer_limit=_STEP_BYTES):
                yield content
            elif self._inner.can_accept_more_data():
                return


class _Encoding(NamedTuple):
    """A content encoding."""

    decompressors: Sequence[Callable[[], Decompressor]]
    """What may decompress a body, to be tried in turn."""
    start: bytes | None = None
    """How a further member starts."""


_KNOWN = {
    "gzip": _Encoding((GzipMember,), b"\x1f\x8b\x08"),
    # In a zlib container, as the standard says, or without one, as many servers send it.
    "deflate": _Encoding((ZlibStream, DeflateStream, GzipMember)),
    "br": _Encoding((_Brotli,)),
    "brotli": _Encoding((_Brotli,)),
    "zstd": _Encoding((ZstandardFrame,), b"\x28\xb5\x2f\xfd"),
}
