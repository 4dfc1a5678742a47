"""Bodies of HTTP responses in web archives: without chunks, encodings and charsets."""

import gzip
import itertools
import zlib
from collections.abc import Callable
from pathlib import Path

import brotli
import pytest
import zstandard
from fastwarc.warc import ArchiveIterator, WarcRecordType

from tests.data_prep.readers.test_bombs import (
    CONTENT_BYTES,
    MAX_DOCUMENT_BYTES,
    gzip_bomb,
    read_bomb,
    zstandard_bomb,
)
from tests.data_prep.readers.warcs import (
    HTTP,
    chunked,
    page,
    read_warc,
    record,
    response,
    texts_of,
)

TEXT = "Bread is baked in an oven, and the caf\u00e9 opens on Monday at nine."
BODY = page(TEXT, "<meta charset=utf-8>").encode()


def raw_deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(body) + compressor.flush()


def same(body: bytes) -> bytes:
    return body


zstd = zstandard.ZstdCompressor().compress
ENCODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "identity": ("identity", same),
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "upper case": ("GZIP", gzip.compress),
    "deflate with zlib": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "brotli": ("br", brotli.compress),
    "zstd": ("zstd", zstd),
    "zstd of several frames": ("zstd", lambda body: zstd(body[:40]) + zstd(body[40:])),
    "gzip of several members": (
        "gzip",
        lambda body: gzip.compress(body[:40]) + gzip.compress(body[40:]),
    ),
    "two encodings": ("deflate, gzip", lambda body: gzip.compress(zlib.compress(body))),
    "three encodings": ("br,zstd, gzip", lambda body: gzip.compress(zstd(brotli.compress(body)))),
    "gzip twice, said once": ("gzip", lambda body: gzip.compress(gzip.compress(body))),
    "gzip, not said": ("", gzip.compress),
    "gzip said, plain": ("gzip", same),
    "deflate said, plain": ("deflate", same),
    "brotli said, plain": ("br", same),
    "zstd said, plain": ("zstd", same),
    "deflate said, gzip": ("deflate", gzip.compress),
    "gzip and bytes after it": ("gzip", lambda body: gzip.compress(body) + b"\r\n\r\n"),
    "a name of no encoding": ("utf-8", same),
}


@pytest.mark.parametrize("transfer", ["", "chunked", "Chunked", "chunked, but not in fact"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_body_is_read_without_its_encodings(tmp_path: Path, encoding: str, transfer: str) -> None:
    name, encode = ENCODINGS[encoding]
    body = encode(BODY)
    fields = "content-type: text/html\n" + (f"Content-Encoding: {name}\n" if name else "")
    if transfer:
        fields += f"TRANSFER-ENCODING: {transfer.partition(',')[0]}\n"
        body = body if "fact" in transfer else chunked(body)
    assert texts_of(tmp_path, response(body, "http://a", fields)) == [TEXT]


@pytest.mark.parametrize(
    "chunks",
    [
        chunked(BODY, line="{:X};name=value\r\n"),
        chunked(BODY, line="{:08x}  \r\n"),
        chunked(BODY, line="{:x}\n"),
        chunked(BODY, size=1 << 20),
        chunked(BODY).removesuffix(b"\r\n") + b"Trailer: value\r\n\r\n",
        chunked(BODY).removesuffix(b"0\r\n\r\n"),  # the connection was closed after the last one
    ],
)
def test_chunks_may_have_extensions_and_trailers(tmp_path: Path, chunks: bytes) -> None:
    fields = "Content-Type: text/html\nTransfer-Encoding: chunked"
    assert texts_of(tmp_path, response(chunks, "http://a", fields)) == [TEXT]


def test_transfer_codings_may_compress(tmp_path: Path) -> None:
    fields = "Content-Type: text/html\nTransfer-Encoding: gzip\nTransfer-Encoding: chunked"
    body = chunked(gzip.compress(BODY))
    assert texts_of(tmp_path, response(body, "http://a", fields)) == [TEXT]


@pytest.mark.parametrize("is_compressed", [True, False])
def test_hundreds_of_encoded_records_are_read_as_many_as_another_reader_finds(
    tmp_path: Path, is_compressed: bool
) -> None:
    """fastwarc 2.0.1's own decoding ends silently after the first chunked record in gzip."""
    path = tmp_path / "a.warc"
    records = []
    for number, (name, encode) in zip(range(400), itertools.cycle(ENCODINGS.values())):
        fields = f"Content-Type: text/html\nTransfer-Encoding: chunked\nContent-Encoding: {name}"
        body = chunked(encode(page(f"Page {number}. {TEXT}").encode()))
        records.append(response(body, f"http://{number}", fields))
    compress = gzip.compress if is_compressed else same
    path.write_bytes(b"".join(map(compress, records)))
    documents, bad = read_warc(path)
    assert documents == [(f"Page {n}. {TEXT}", f"http://{n}") for n in range(400)]
    assert not bad.counts
    with open(path, "rb") as stream:
        iterator = ArchiveIterator(stream, record_types=WarcRecordType.response)
        assert sum(1 for _ in iterator) == len(documents)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (gzip.compress(BODY, mtime=0)[:-20], "Content-Encoding: gzip"),
        (gzip.compress(BODY, mtime=0)[:40] + b"\xff" * 20, "Content-Encoding: gzip"),
        (zlib.compress(BODY)[:-20], "Content-Encoding: deflate"),
        (brotli.compress(BODY)[:-20], "Content-Encoding: br"),
        (zstd(BODY)[:-20], "Content-Encoding: zstd"),
        (b"\x1f\x9d\x90" + bytes(range(40)), "Content-Encoding: compress"),
        (chunked(BODY)[:-20], "Transfer-Encoding: chunked"),
        (chunked(BODY, 20).replace(b"\r\n14\r\n", b"\r\nxx\r\n", 1), "Transfer-Encoding: chunked"),
        (b"1000\r\n" + BODY, "Transfer-Encoding: chunked"),
        (BODY, "Content-Encoding: " + ", ".join(["gzip"] * 100)),
    ],
)
def test_a_damaged_body_is_counted(tmp_path: Path, body: bytes, fields: str) -> None:
    path = tmp_path / "a.warc"
    records = [
        response(body, "http://damaged", f"Content-Type: text/html\n{fields}"),
        response(BODY, "http://whole"),
    ]
    path.write_bytes(b"".join(records))
    documents, bad = read_warc(path)
    assert [uri for _, uri in documents] == ["http://whole"]
    assert bad.counts == {"damaged or unknown encoding of the body": 1}
    assert bad.num_bytes.total() == len(records[0])


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (gzip.compress(BODY * 50, mtime=0)[:-50], "Content-Encoding: gzip"),
        (chunked(BODY * 50, 1000)[:-1500], "Transfer-Encoding: chunked"),
    ],
)
def test_of_a_body_that_the_crawler_has_truncated_the_start_is_read(
    tmp_path: Path, body: bytes, fields: str
) -> None:
    whole = response(
        body, "http://a", f"Content-Type: text/html\n{fields}", "WARC-Truncated: length\r\n"
    )
    (text,) = texts_of(tmp_path, whole)
    assert text.startswith(TEXT)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["gzip", "zstd", "br", "deflate"])
def test_a_body_that_expands_is_counted(tmp_path: Path, name: str) -> None:
    bombs: dict[str, Callable[[], bytes]] = {
        "gzip": lambda: gzip.compress(gzip_bomb(b"<p>", b"")),
        "zstd": lambda: zstandard_bomb(b"<p>", b""),
        "br": lambda: brotli.compress(bytes(CONTENT_BYTES >> 3), quality=1),
        "deflate": lambda: zlib.compress(bytes(CONTENT_BYTES >> 3)),
    }
    fields = f"Content-Type: text/html\nContent-Encoding: {name}"
    path = tmp_path / "a.warc"
    bomb = response(bombs[name](), "http://bomb", fields)
    path.write_bytes(response(BODY, "http://a") + bomb + response(BODY, "http://b"))
    found = read_bomb(path, type="warc")
    assert found["documents"] == 2
    assert found["bad"] == {"longer than max_document_mb": 1}
    assert found["bytes"]["longer than max_document_mb"] > 8 * MAX_DOCUMENT_BYTES


@pytest.mark.timeout(120)
def test_a_page_of_millions_of_elements_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    page_of_elements = response(b"<b>" * 4_000_000, "http://b")
    path.write_bytes(response(BODY, "http://a") + page_of_elements)
    found = read_bomb(path, type="warc")
    assert (found["documents"], found["bad"]) == (1, {"too many values or elements": 1})


def test_a_response_after_interim_ones_is_read(tmp_path: Path) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    final = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\none"
    assert texts_of(tmp_path, record("response", interim + final, "http://a", HTTP)) == ["one"]
