"""The account of a damaged web archive adds up: read, skipped, bad, not read, whatever the damage.

Ground truth are the records that the archive was made of, and what damage does to their bytes.
"""

import bz2
import gzip
import lzma
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.data_prep.readers.warcs import HTTP, read_warc, record

PADDING = "zeros at the end of the file"


def lz4_compress(content: bytes) -> bytes:
    compressed: bytes = lz4.frame.compress(content, content_checksum=True)
    return compressed


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lz4": lz4_compress,
}


def records_of(generate: random.Random) -> dict[str, bytes]:
    """Records of several kinds by their address."""
    records = {}
    for number in range(generate.randrange(3, 30)):
        uri = f"http://{number}-{number * 7919 % 10007}"
        text = f"Page {number} {'word ' * generate.randrange(200)}".encode()
        page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n\r\n"
        records[uri] = generate.choice(
            [
                record("conversion", text, uri),
                record("conversion", text, uri),
                record("response", page + gzip.compress(b"<p>" + text), uri, HTTP),
                record("response", b"HTTP/1.1 404 Not Found\r\n\r\n", uri, HTTP),
                record("resource", generate.randbytes(900), uri, "image/png"),
                record("request", b"GET / HTTP/1.1\r\n\r\n", uri, HTTP),
            ]
        )
    return records


def damaged(content: bytes, generate: random.Random) -> bytes:
    """`content` with bits changed, cut, with zeros in it or in its place, or with a gap."""
    result = bytearray(content)
    at = generate.randrange(len(result))
    end = at + generate.randrange(1, 4000)
    match generate.randrange(5):
        case 0:
            for _ in range(generate.randrange(1, 6)):
                result[generate.randrange(len(result))] ^= 1 << generate.randrange(8)
        case 1:
            del result[at:]
        case 2:
            result[at:end] = bytes(len(result[at:end]))
        case 3:
            result[at:at] = bytes(end - at)
        case 4:
            del result[at:end]
    return bytes(result) or b"\0"


def read_any_way(path: Path, part_bytes: int) -> tuple[int, int, list[str]]:
    """(bytes of content that are accounted for, bytes of the file that are not read, addresses);
    they have to be the same for every cut."""
    documents, bad = read_warc(path)
    cut_documents, cut_bad = read_warc(path, part_bytes)
    assert cut_documents == documents
    assert cut_bad.counts == bad.counts
    assert cut_bad.not_read_bytes == bad.not_read_bytes
    assert cut_bad.skipped_bytes == bad.skipped_bytes
    padding_bytes = bad.skipped_bytes.pop(PADDING, 0)
    accounted = bad.skipped_bytes.total() + bad.num_bytes.total()
    uris = [uri for _, uri in documents]
    assert len(set(uris)) == len(uris)
    return accounted, bad.not_read_bytes.total() + padding_bytes, uris


@pytest.mark.parametrize("gap", ["responsWARC/1.0\r\n", "responsC/1.0\r\n", "W\r\nWARC/1.0\r\n"])
def test_a_gap_does_not_join_the_heads_of_two_records(tmp_path: Path, gap: str) -> None:
    first, second = (record("conversion", uri.encode(), uri) for uri in ("http://a", "http://b"))
    before, _, _ = first.partition(b"WARC-Date" if "C/1" in gap else b"C/1.0")
    content = before + gap.encode() + second.partition(b"\r\n")[2]
    path = tmp_path / "a.warc"
    path.write_bytes(record("conversion", b"0", "http://0") + content + first)
    documents, bad = read_warc(path)
    whole = ["http://b"] if "WARC/1.0" in gap else []
    assert [uri for _, uri in documents] == ["http://0", *whole, "http://a"]
    assert bad.counts == {"damaged WARC record": 1}
    assert read_warc(path, 40)[0] == documents


@pytest.mark.parametrize("inner_words", [1, 100_000])
def test_a_record_with_records_in_it_is_read_as_these(tmp_path: Path, inner_words: int) -> None:
    """Wherever the file is cut; as an archive in an archive, or where a gap made such a record."""
    inner = [record("conversion", f"{n} {'word ' * inner_words}".encode(), n) for n in "ab"]
    outer = record("resource", b"".join(inner), "http://outer", "application/warc")
    path = tmp_path / "a.warc"
    last = record("conversion", b"c", "c")
    path.write_bytes(record("conversion", b"0", "http://0") + outer + last)
    documents, bad = read_warc(path, max_document_bytes=1 << 20)
    assert [uri for _, uri in documents] == ["http://0", "a", "b", "c"]
    assert bad.counts == {"damaged WARC record": 1}  # the head of the outer one
    for part_bytes in (60 * min(inner_words, 100), 999 * min(inner_words, 100)):
        cut = read_warc(path, part_bytes, max_document_bytes=1 << 20)
        assert (cut[0], cut[1].counts) == (documents, bad.counts)


@settings(max_examples=150, deadline=None)
@example(seed=7029, part=50)
@example(seed=99636, part=50)
@given(seed=st.integers(0, 1 << 30), part=st.integers(50, 3000))
def test_the_bytes_of_a_plain_archive_add_up(
    tmp_path_factory: pytest.TempPathFactory, seed: int, part: int
) -> None:
    generate = random.Random(seed)
    path = tmp_path_factory.mktemp("plain") / "a.warc"
    records = records_of(generate)
    whole = b"".join(records.values())
    content = damaged(whole, generate)
    path.write_bytes(content)
    accounted, not_read, uris = read_any_way(path, part)
    # Bits that are changed in a text leave its size; the parts of two records around a gap, or
    # zeros in a text, may make a record of another size.
    keeps_size = len(content) == len(whole) and bytes(99) not in content
    known = [uri for uri in uris if uri in records and (keeps_size or records[uri] in content)]
    total = accounted + not_read + sum(len(records[uri]) for uri in known)
    # Zeros in the empty lines after a record count together with those lines.
    assert total <= len(content) + 4
    if len(known) == len(uris):
        assert total >= len(content) - 4
    assert set(uris) >= {
        uri for uri, one in records.items() if b"conversion" in one and one in content
    }


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@settings(max_examples=60, deadline=None)
@example(seed=452, part=50)
@given(seed=st.integers(0, 1 << 30), part=st.integers(50, 3000))
def test_the_bytes_of_a_compressed_archive_add_up(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, seed: int, part: int
) -> None:
    generate = random.Random(seed)
    path = tmp_path_factory.mktemp("compressed") / f"a.warc.{suffix}"
    records = records_of(generate)
    members = {uri: COMPRESSIONS[suffix](content) for uri, content in records.items()}
    content = damaged(b"".join(members.values()), generate)
    path.write_bytes(content)
    accounted, not_read, uris = read_any_way(path, part)
    intact = [uri for uri, member in members.items() if member in content]
    accounted += sum(len(records[uri]) for uri in uris)
    # Some bits, such as the time in gzip's header, may be changed without effect.
    others = [uri for uri in members if uri not in intact]
    sizes = [(0, 0), *((len(records[uri]), len(members[uri])) for uri in others)]
    if suffix == "zst":  # nor does the bit that says whether four bytes of checksum follow a frame
        sizes += [(size, member_size - 4) for size, member_size in sizes[1:]]
    truth = sum(len(records[uri]) for uri in intact)
    stored = sum(len(members[uri]) for uri in intact)
    assert any(
        accounted == truth + size and not_read == len(content) - stored - member_size
        for size, member_size in sizes
    )


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_damage_in_a_member_of_an_archive_costs_its_record(tmp_path: Path, suffix: str) -> None:
    texts = [f"Page {number} of words" for number in range(20)]
    records = [record("conversion", text.encode(), f"http://{text[5:7]}") for text in texts]
    compress = COMPRESSIONS.get(suffix[1:], bytes)
    members = [bytearray(compress(content)) for content in records]
    members[9][len(members[9]) // 2] ^= 4
    if not suffix:
        members[9][0] ^= 4
    (tmp_path / f"a.warc{suffix}").write_bytes(b"".join(members))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / f"a.warc{suffix}", arcname=f"a.warc{suffix}")
    documents, bad = read_warc(tmp_path / "a.tar")
    assert [text for text, _ in documents] == texts[:9] + texts[10:]
    assert bad.counts.total() == 1
    assert bad.not_read_bytes.total() == len(members[9])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 30), part=st.integers(50, 3000))
def test_damage_of_a_single_gzip_member_costs_what_follows_it(
    tmp_path_factory: pytest.TempPathFactory, seed: int, part: int
) -> None:
    generate = random.Random(seed)
    path = tmp_path_factory.mktemp("whole") / "a.warc.gz"
    records = records_of(generate)
    whole = gzip.compress(b"".join(records.values()), compresslevel=1)
    at = generate.randrange(len(whole))
    path.write_bytes(whole[:at])
    accounted, not_read, uris = read_any_way(path, part)
    assert uris == [uri for uri in records if uri in uris]
    share = not_read / max(at, 1)
    assert accounted or uris or share == 1
    assert 0 < not_read <= max(at, 1) or at == 0
