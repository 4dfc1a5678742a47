"""Records of web archives of every type, age and compression: read, or counted by kind."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import pytest
import zstandard

from configs.load import UserError
from data_prep.readers.document import BadRecords
from tests.data_prep.readers.warcs import HTTP, page, read_warc, record

WORDS = "Words of a page."
PAGE = page(WORDS).encode()
OK = b"HTTP/1.1 200 OK\r\n"
HTML = b"Content-Type: text/html\r\n\r\n"


def typed(content_type: str, body: bytes = PAGE) -> bytes:
    """A successful response of this type."""
    head = OK + f"Content-Type: {content_type}\r\n\r\n".encode()
    return record("response", head + body, "u", HTTP)


PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"

READ: dict[str, bytes] = {
    "response": record("response", OK + HTML + PAGE, "u", HTTP),
    "upper case": record(
        "RESPONSE", OK + b"CONTENT-TYPE:TEXT/HTML\r\n\r\n" + PAGE, "u", HTTP.upper()
    ),
    "HTTP header with LF only": record(
        "response", b"HTTP/1.1 200 OK\nContent-Type: text/html\n\n" + PAGE, "u", HTTP
    ),
    "a folded field": record("response", OK + b"X: a\r\n  b\r\n" + HTML + PAGE, "u", HTTP),
    "a status without words": record("response", b"HTTP/2 200\r\n" + HTML + PAGE, "u", HTTP),
    "no HTTP header": record("response", PAGE, "u", HTTP),
    "no HTTP header, type of the page": record("response", PAGE, "u", "text/html"),
    "response without WARC content type": record("response", OK + HTML + PAGE, "u", None),
    "no content type": record("response", OK + b"\r\n" + PAGE, "u", HTTP),
    "no content type, plain": record("response", OK + b"\r\n" + WORDS.encode(), "u", HTTP),
    "a type that is none": typed("html"),
    "XHTML": typed("application/xhtml+xml"),
    "XHTML sent as XML": typed("text/xml"),
    "plain text": typed("TEXT/plain", WORDS.encode()),
    "resource": record("resource", PAGE, "u", "Text/HTML; charset=utf-8"),
    "resource without type": record("resource", PAGE, "u", None),
    "plain resource": record("resource", WORDS.encode(), "u", "text/plain"),
    "conversion": record("conversion", WORDS.encode(), "u", "text/plain"),
    "conversion without type": record("conversion", WORDS.encode(), "u", None),
    "conversion to HTML": record("conversion", PAGE, "u", "text/html"),
    "address in brackets": record("conversion", WORDS.encode(), "<u>", "text/plain"),
    "cut by the crawler": record(
        "response", OK + HTML + PAGE, "u", HTTP, "WARC-Truncated: length\r\n"
    ),
}
SKIPPED: dict[str, bytes] = {
    "HTTP status 404": record("response", b"HTTP/1.1 404 Not Found\r\n" + HTML + PAGE, "u", HTTP),
    "HTTP status 301": record("response", b"HTTP/1.1 301\r\nLocation: x\r\n\r\n", "u", HTTP),
    "HTTP status 206": record("response", b"HTTP/1.1 206 Part\r\n" + HTML + PAGE, "u", HTTP),
    "request record": record("request", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "u", HTTP),
    "revisit record": record("revisit", OK + b"\r\n", "u", HTTP, "WARC-Profile: x\r\n"),
    "metadata record": record("metadata", b"via: x\r\n", "u", "application/warc-fields"),
    "warcinfo record": record("warcinfo", b"software: x\r\n", "", "application/warc-fields"),
    "other record": record("other", b"x", "u"),
    "image": typed("image/png", PNG),
    "video": record("resource", b"x", "u", "video/mp4"),
    "application/pdf": typed("application/PDF", b"%PDF"),
    "text/css": record("resource", b"p { margin: 0 }", "u", "text/css; charset=utf-8"),
    "text/dns": record("response", b"20200101000000\nhost. 1 IN A 1.2", "dns:host", "text/dns"),
    "content of an unknown type": record("response", OK + b"\r\n" + PNG, "u", HTTP),
    "content of a malformed type": record("resource", b"x", "u", "\x01/\x02"),
    "empty body": record("response", OK + HTML, "u", HTTP),
}


@pytest.mark.parametrize("name", READ)
def test_records_with_text_are_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.warc"
    path.write_bytes(READ[name])
    documents, bad = read_warc(path)
    assert documents == [(WORDS, "u")]
    assert not bad.counts
    assert not bad.skipped


def test_records_without_text_are_skipped_by_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(map(gzip.compress, SKIPPED.values())))
    documents, bad = read_warc(path)
    assert not documents
    assert not bad.counts
    assert bad.skipped == dict.fromkeys(SKIPPED, 1)
    assert bad.skipped_bytes == {kind: len(content) for kind, content in SKIPPED.items()}


def test_records_in_segments_are_counted_as_bad(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    segments = [
        record("response", OK + HTML + PAGE, "u", HTTP, "WARC-Segment-Number: 1\r\n"),
        record("continuation", PAGE, "u", HTTP, "WARC-Segment-Number: 2\r\n"),
    ]
    path.write_bytes(b"".join(segments))
    documents, bad = read_warc(path)
    assert not documents
    assert bad.counts == {"record in segments": 2}
    assert bad.num_bytes.total() == path.stat().st_size


def clueweb(number: int) -> bytes:
    """A record as in ClueWeb09: version 0.18, LF only."""
    content = b"HTTP/1.1 200 OK\nContent-Type: text/html\n\n" + PAGE + b"\n"
    head = (
        f"WARC/0.18\nWARC-Type: response\nWARC-Target-URI: http://{number}\n"
        f"WARC-Date: 2009-03-65T08:43:19-0800\nWARC-Record-ID: <urn:uuid:{number}>\n"
        f"Content-Type: application/http;msgtype=response\nContent-Length: {len(content)}\n\n"
    )
    return head.encode() + content + b"\n\n"


def arc(number: int, version: int, url: str = "http://{}", content: bytes = b"") -> bytes:
    content = content or OK + HTML + PAGE
    fields = "" if version == 1 else "200 - - 1234 a.arc.gz "
    line = f"{url.format(number)} 1.2.3.4 20010101000000 text/html {fields}{len(content)}\n"
    return line.encode() + content + b"\n"


def arc_header(version: int) -> bytes:
    content = f"{version} 0 InternetArchive\nURL IP-address Archive-date Archive-length\n".encode()
    return arc(0, version, "filedesc://a.arc", content)


FORMATS: dict[str, list[bytes]] = {
    "WARC": [record("conversion", WORDS.encode(), f"http://{n}") for n in range(30)],
    "ClueWeb09": [clueweb(n) for n in range(30)],
    "ARC 1": [arc_header(1), *(arc(n, 1) for n in range(30))],
    "ARC 2": [arc_header(2), *(arc(n, 2) for n in range(30))],
}


def skippable(content: bytes, magic: bytes = b"\x5d\x2a\x4d\x18") -> bytes:
    return magic + len(content).to_bytes(4, "little") + content


def with_dictionary(records: list[bytes], compresses_dictionary: bool = False) -> bytes:
    """Frames after the dictionary that they are compressed with, as ArchiveTeam writes them."""
    dictionary = zstandard.train_dictionary(
        2000, [r + bytes([n]) for n in range(40) for r in records]
    )
    compressor = zstandard.ZstdCompressor(dict_data=dictionary)
    content = dictionary.as_bytes()
    content = zstandard.compress(content) if compresses_dictionary else content
    return skippable(content) + b"".join(map(compressor.compress, records))


def each(compress: Callable[[bytes], bytes]) -> Callable[[list[bytes]], bytes]:
    return lambda records: b"".join(map(compress, records))


def whole(compress: Callable[[bytes], bytes]) -> Callable[[list[bytes]], bytes]:
    return lambda records: compress(b"".join(records))


def lz4_compress(content: bytes) -> bytes:
    compressed: bytes = lz4.frame.compress(content)
    return compressed


CONTAINERS: dict[str, Callable[[list[bytes]], bytes]] = {
    "plain": b"".join,
    "plain.gz": b"".join,  # named so, and not compressed
    "gzip.gz": each(gzip.compress),
    "gzip": each(gzip.compress),
    "gzip.zst": each(gzip.compress),
    "one gzip member.gz": whole(gzip.compress),
    "zstandard.zst": each(zstandard.compress),
    "zstandard": each(zstandard.compress),
    "one frame.zst": whole(zstandard.compress),
    "dictionary.zst": with_dictionary,
    "compressed dictionary.zst": lambda records: with_dictionary(records, True),
    "skippable frames.zst": lambda records: skippable(b"x" * 99, b"\x50\x2a\x4d\x18").join(
        [b"", *map(zstandard.compress, records), b""]
    ),
    "bzip2.bz2": each(bz2.compress),
    "one bzip2 stream.bz2": whole(bz2.compress),
    "xz": each(lzma.compress),
    "one xz stream.xz": whole(lzma.compress),
    "lz4.lz4": each(lz4_compress),
    "one lz4 frame.lz4": whole(lz4_compress),
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_archives_of_every_age_and_compression_are_the_same_wherever_they_are_cut(
    tmp_path: Path, container: str, form: str
) -> None:
    path = tmp_path / container
    path.write_bytes(CONTAINERS[container](FORMATS[form]))
    for part_bytes in (1 << 30, path.stat().st_size // 37, 211):
        documents, bad = read_warc(path, part_bytes)
        assert documents == [(WORDS, f"http://{n}") for n in range(30)]
        assert not bad.counts
        assert bad.skipped == ({"arc header record": 1} if form.startswith("ARC") else {})


def test_a_missing_or_damaged_dictionary_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.zst"
    content = with_dictionary(FORMATS["WARC"])
    frames = content[8 + int.from_bytes(content[4:8], "little") :]
    path.write_bytes(frames)
    with pytest.raises(UserError, match="dictionary that is not in the file"):
        read_warc(path)
    path.write_bytes(skippable(b"\x28\xb5\x2f\xfdno dictionary") + frames)
    documents, bad = read_warc(path)
    assert not documents
    assert bad.not_read_bytes.total() >= len(frames)
    assert "Dictionary mismatch" in bad.examples[-1]["detail"]


def test_addresses_in_arc_files_may_hold_spaces(tmp_path: Path) -> None:
    (tmp_path / "a.arc").write_bytes(
        arc_header(1) + arc(0, 1, "http://a/b c.html") + arc(1, 1, "ftp://a", PAGE)
    )
    documents, bad = read_warc(tmp_path / "a.arc")
    assert documents == [(WORDS, "http://a/b c.html"), (WORDS, "ftp://a")]
    assert not bad.counts


def lengths(records: list[bytes], number: int, length: bytes) -> list[bytes]:
    """The records, of which one has another Content-Length."""
    start, _, rest = records[number].partition(b"Content-Length: ")
    changed = start + b"Content-Length: " + length + rest[rest.index(b"\r\n") :]
    return [*records[:number], changed, *records[number + 1 :]]


@pytest.mark.parametrize("length", [b"5", b"70", b"99999999", b"9999999999999", b"-16", b"x", b""])
@pytest.mark.parametrize("container", ["plain", "gzip.gz", "one gzip member.gz", "one frame.zst"])
def test_a_wrong_length_costs_its_record(tmp_path: Path, container: str, length: bytes) -> None:
    path = tmp_path / "a.warc"
    path.write_bytes(CONTAINERS[container](lengths(FORMATS["WARC"], 9, length)))
    for part_bytes in (1 << 30, 333):
        documents, bad = read_warc(path, part_bytes, max_document_bytes=1_000_000)
        assert [uri for _, uri in documents] == [f"http://{n}" for n in range(30) if n != 9]
        assert bad.counts.total() == 1
        assert bad.not_read_bytes.total() > 0


def test_files_that_are_no_archives_are_counted(tmp_path: Path) -> None:
    def read(content: bytes) -> BadRecords:
        (tmp_path / "a.warc.gz").write_bytes(content)
        documents, bad = read_warc(tmp_path / "a.warc.gz")
        assert not documents
        assert bad.counts.total() == 1
        return bad

    for empty in (b"", gzip.compress(b"")):
        assert read(empty).cut_files
    for content in (bytes(5000), b"no archive at all\n" * 99, gzip.compress(b"no archive\n" * 9)):
        assert read(content).not_read_bytes.total() == len(content)
