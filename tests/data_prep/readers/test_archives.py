"""Dumps of wikis and web archives: the same documents wherever they are cut, damage counted."""

import bz2
import gzip
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.data_prep.readers.reading import read_documents as read

WIKI = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">
<page><title>Bread</title><ns>0</ns><revision><text>'''Bread''' is a [[food]] made of
[[flour|ground grain]].&lt;ref&gt;A book&lt;/ref&gt; {{cite|x}} [[File:Loaf.jpg|thumb|A loaf]]

== History ==
See [http://example.org the site]. [[Category:Food]] [[de:Brot]]</text></revision></page>
<page><title>Loaf</title><ns>0</ns><redirect title="Bread"/><revision><text/></revision></page>
<page><title>Talk:Bread</title><ns>1</ns><revision><text>Hello</text></revision></page>
<page><title>Oven</title><ns>0</ns><revision><text>An '''oven''' is hot.</text></revision></page>
</mediawiki>"""


def test_wiki_articles_become_plain_text(tmp_path: Path) -> None:
    (tmp_path / "dump.xml.bz2").write_bytes(bz2.compress(WIKI.encode()))
    documents, bad = read(tmp_path / "dump.xml.bz2", type="mediawiki")
    assert [number for _, number in documents] == ["dump.xml.bz2:Bread", "dump.xml.bz2:Oven"]
    text = documents[0][0]
    assert text.startswith("Bread\n\nBread is a food made of\nground grain.")
    assert "History\nSee the site." in text
    for markup in ("ref", "book", "cite", "loaf", "Category", "Brot", "==", "''"):
        assert markup not in text
    assert not bad


def test_a_truncated_dump_keeps_its_whole_articles(tmp_path: Path) -> None:
    (tmp_path / "dump.xml").write_text(WIKI[: WIKI.index("Oven") + 10])
    documents, bad = read(tmp_path / "dump.xml", type="mediawiki")
    assert [number for _, number in documents] == ["dump.xml:Bread"]
    assert bad == {"damaged or truncated XML": 1, "the file does not end with </mediawiki>": 1}


@pytest.mark.parametrize("codec", ["gz", "zst"])
def test_a_truncated_compressed_dump_keeps_its_whole_articles(tmp_path: Path, codec: str) -> None:
    path = tmp_path / f"dump.xml.{codec}"
    compress = {"gz": gzip.compress, "zst": zstandard.ZstdCompressor().compress}[codec]
    content = dump_of(list(range(60)))
    path.write_bytes(in_streams(content, [len(content) // 2], compress))
    documents, bad = read(path, type="mediawiki")
    assert (len(documents), bad) == (60, {})
    path.write_bytes(path.read_bytes()[:-8])
    kept, bad = read(path, type="mediawiki")
    assert kept == documents[: len(kept)]
    assert len(kept) > 30
    assert bad["damaged or truncated compression"] == 1


def warc_record(kind: str, content: bytes, uri: str) -> bytes:
    content_type = "application/http; msgtype=response" if kind == "response" else "text/plain"
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {uri}\r\n"
        "WARC-Record-ID: <urn:uuid:1>\r\nWARC-Date: 2020-01-01T00:00:00Z\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content + b"\r\n\r\n"


def test_web_archives_give_pages_and_extracted_text(tmp_path: Path) -> None:
    page = "<html><body><nav>Home About</nav><p>Caf\u00e9 opens on Monday.</p></body></html>"
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=latin-1\r\n\r\n"
    gone = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\n\r\n<p>Nothing here.</p>"
    records = [
        warc_record("response", http + page.encode("latin-1"), "http://a"),
        warc_record("response", gone, "http://b"),
        warc_record("conversion", "Extracted t\u00e9xt.".encode(), "http://c"),
    ]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(map(gzip.compress, records)))
    documents, bad = read(tmp_path / "a.warc.gz", type="warc")
    assert [(text.strip(), uri) for text, uri in documents] == [
        ("Café opens on Monday.", "http://a"),
        ("Extracted téxt.", "http://c"),
    ]
    assert not bad
    cut = b"".join(map(gzip.compress, records))[:-80]
    (tmp_path / "a.warc.gz").write_bytes(cut)
    documents, bad = read(tmp_path / "a.warc.gz", type="warc")
    assert [uri for _, uri in documents] == ["http://a"]
    assert bad["damaged or truncated compression"] == 1


def test_a_page_may_state_any_encoding(tmp_path: Path) -> None:
    stated = [
        "utf-8;q=1",
        "x-user-defined",
        "hex",
        "utf-7",
        "undefined",
        "\u00e9",
        "-",
        '"',
    ]
    page = (
        "<p>A caf\u00e9, and enough words to detect the encoding of this page: tr\u00e8s bien.</p>"
    )
    records = [
        warc_record(
            "response",
            f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset={name}\r\n\r\n{page}".encode(),
            f"http://{number}",
        )
        for number, name in enumerate(stated)
    ]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    documents, bad = read(tmp_path / "a.warc", type="warc")
    assert [uri for _, uri in documents] == [f"http://{number}" for number in range(len(stated))]
    assert {text.strip() for text, _ in documents} == {page[3:-4]}
    assert not bad


@pytest.mark.parametrize("tag", ["div", "UL><li"])
def test_a_page_nested_too_deeply_is_counted(tmp_path: Path, tag: str) -> None:
    """The time to read it, or the length of its text, would grow with the square of its depth."""
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"
    flat, deep = f"<{tag}>x</{tag[:3].strip('>')}>" * 2000, f"<{tag}>x" * 20_000
    records = [
        warc_record("response", http + page.encode(), uri)
        for page, uri in ((deep, "http://deep"), (flat, "http://flat"))
    ]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    documents, bad = read(tmp_path / "a.warc", type="warc")
    assert [uri for _, uri in documents] == ["http://flat"]
    assert bad == {"HTML nested too deeply": 1}


def in_streams(
    content: bytes, cuts: Sequence[int], compress: Callable[[bytes], bytes] = bz2.compress
) -> bytes:
    """`content` cut at `cuts`, every piece compressed as a stream."""
    places = sorted({cut % (len(content) + 1) for cut in cuts} | {0, len(content)})
    return b"".join(compress(content[a:b]) for a, b in pairwise(places))


pages = st.lists(st.integers(0, 60), max_size=12)
cuts = st.lists(st.integers(0, 5000), max_size=6)


def dump_of(lengths: list[int]) -> bytes:
    page = "<page><title>T{0}</title><ns>0</ns><revision><text>{1}</text></revision></page>\n"
    body = "".join(page.format(n, f"w{n} " * (size + 1)) for n, size in enumerate(lengths))
    return f"<mediawiki>\n{body}</mediawiki>\n".encode()


@settings(max_examples=60)
@given(pages, cuts, st.integers(1, 900))
def test_a_dump_gives_the_same_pages_wherever_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], cuts: list[int], part: int
) -> None:
    folder = tmp_path_factory.mktemp("dump")
    content = dump_of(lengths)
    (folder / "a.xml").write_bytes(content)
    (folder / "a.xml.bz2").write_bytes(in_streams(content, cuts))
    plain, bad = read(folder / "a.xml", type="mediawiki")
    assert [number for _, number in plain] == [f"a.xml:T{n}" for n in range(len(lengths))]
    assert not bad
    assert read(folder / "a.xml", part, type="mediawiki") == (plain, {})
    for part_bytes in (1 << 30, part):
        documents, bad = read(folder / "a.xml.bz2", part_bytes, type="mediawiki")
        assert [text for text, _ in documents] == [text for text, _ in plain]
        assert not bad


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 900), st.booleans())
def test_a_damaged_dump_loses_the_same_wherever_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory, place: int, part: int, truncate: bool
) -> None:
    path = tmp_path_factory.mktemp("dump") / "a.xml.bz2"
    content = bytearray(in_streams(dump_of([9] * 30), list(range(100, 3000, 300))))
    place %= len(content)
    if truncate:
        del content[place:]
    else:
        content[place] ^= 0x55
    path.write_bytes(content)
    documents, bad = read(path, type="mediawiki")
    assert (documents, bad) == read(path, part, type="mediawiki")
    assert len(documents) == 30 or sum(bad.values()) >= 1
    if not truncate:
        assert len(documents) >= 18  # the damaged stream, and the pages that it cuts, are lost


def test_a_page_that_is_not_xml_is_counted_and_the_next_is_read(tmp_path: Path) -> None:
    content = dump_of([1, 1, 1]).replace(b"w1", b"&nonsense;")
    (tmp_path / "a.xml").write_bytes(content)
    documents, bad = read(tmp_path / "a.xml", type="mediawiki")
    assert [number for _, number in documents] == ["a.xml:T0", "a.xml:T2"]
    assert bad == {"damaged or truncated XML": 1}


def records_of(seed: int, number: int) -> list[bytes]:
    generate = random.Random(seed)
    texts = [f"Page {n}. " + "word " * generate.randrange(40) for n in range(number)]
    texts[number // 2] += "\r\n\r\nWARC/1.0\r\nWARC-Type: conversion\r\nContent-Length: 3\r\n\r\nno"
    return [warc_record("conversion", text.encode(), f"http://{n}") for n, text in enumerate(texts)]


@settings(max_examples=60)
@given(st.integers(0, 99), st.integers(1, 12), st.integers(20, 900), cuts)
def test_a_web_archive_is_the_same_wherever_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory, seed: int, number: int, part: int, cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("warc")
    records = records_of(seed, number)
    content = b"".join(records)
    # A member that starts inside a record, with what looks like a record, is taken for one.
    inside = content.index(b"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Length")
    assume(all(cut % (len(content) + 1) != inside for cut in cuts))
    (folder / "a.warc").write_bytes(content)
    (folder / "records.warc.gz").write_bytes(b"".join(map(gzip.compress, records)))
    (folder / "blocks.warc.gz").write_bytes(in_streams(content, cuts, gzip.compress))
    (folder / "whole.warc.gz").write_bytes(gzip.compress(content) + bytes(part))
    compress = zstandard.ZstdCompressor().compress
    (folder / "a.warc.zst").write_bytes(in_streams(content, cuts, compress))
    (folder / "a.warc.bz2").write_bytes(in_streams(content, cuts))
    for name in sorted(path.name for path in folder.iterdir()):
        documents, bad = read(folder / name, type="warc")
        assert [uri for _, uri in documents] == [f"http://{n}" for n in range(number)], name
        assert not bad
        assert read(folder / name, part, type="warc") == (documents, {}), name


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 900))
def test_a_damaged_web_archive_loses_the_same_wherever_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory, place: int, part: int
) -> None:
    path = tmp_path_factory.mktemp("warc") / "a.warc.gz"
    content = bytearray(b"".join(map(gzip.compress, records_of(0, 12))))
    content[place % len(content)] ^= 0x55
    path.write_bytes(content)
    documents, bad = read(path, type="warc")
    assert (documents, bad) == read(path, part, type="warc")
    assert len(documents) >= 10


@settings(max_examples=75)
@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3),
    st.integers(1, 900),
)
@example([(2295, 0)], 1)  # in the blank line that ends a head: fastwarc reads on, without the text
def test_damaged_records_are_counted_and_the_rest_is_read(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]], part: int
) -> None:
    path = tmp_path_factory.mktemp("warc") / "a.warc"
    whole = b"".join(records_of(0, 12))
    content = bytearray(whole)
    for place, byte in damage:
        content[place % len(content)] = byte
    path.write_bytes(content)
    documents, bad = read(path, type="warc")
    cut_documents, cut_bad = read(path, part, type="warc")
    assert cut_documents == documents
    # Consecutive damaged records may be counted as one, unless there is a cut between them.
    assert cut_bad == bad if len(damage) == 1 else bool(cut_bad) == bool(bad)
    assert len(documents) >= 12 - 2 * len(damage)
    if content == whole:
        assert len(documents) == 12
        assert not bad


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_a_truncated_record_is_counted_once(tmp_path: Path, name: str) -> None:
    content = b"".join(records_of(0, 8))[:-30]
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    for part in (1 << 30, 100):
        documents, bad = read(tmp_path / name, part, type="warc")
        assert len(documents) == 7
        assert bad == {"truncated record": 1}
