"""Archives: every member is read as a file of its own, or counted by kind and bytes."""

import bz2
import gzip
import io
import json
import lzma
import struct
import tarfile
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import lz4.frame
import pytest
import zstandard

from data_prep.readers.document import BadRecords
from data_prep.readers.files import list_files
from tests.data_prep.readers.reading import WHOLE_BYTES, reader_config
from tests.data_prep.readers.test_archives import dump_of, records_of

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".lzma": lambda content: lzma.compress(content, lzma.FORMAT_ALONE),
    ".lz4": lz4.frame.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
DAMAGED = "damaged or truncated archive"


def read(
    path: Path, part_bytes: int = WHOLE_BYTES, **config: Any
) -> tuple[list[tuple[str, str]], BadRecords]:
    """([(text, id)], what was counted)."""
    checked = reader_config({"files": [str(path)], **config})
    reader, bad = checked.build(), BadRecords("skip")
    (file,) = list_files(checked.files, "files")
    documents = [
        (document.text, document.id)
        for span in reader.spans(file, part_bytes)
        for document in reader.read(span, bad)
    ]
    return documents, bad


def jsonl(first: int, last: int) -> bytes:
    return "".join(json.dumps({"text": f"text {n}"}) + "\n" for n in range(first, last)).encode()


def tar_of(members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("part_bytes", [1, 700, WHOLE_BYTES])
@pytest.mark.parametrize("archive", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst"])
def test_members_are_read_as_files_whatever_they_are_compressed_by(
    tmp_path: Path, archive: str, part_bytes: int
) -> None:
    members = {
        f"folder/{n}.jsonl{suffix}": compress(jsonl(3 * n, 3 * n + 3))
        for n, (suffix, compress) in enumerate(COMPRESSIONS.items())
    }
    content = zip_of(members) if archive == "zip" else tar_of(members)
    path = tmp_path / f"a.{archive}"
    path.write_bytes(COMPRESSIONS[archive.removeprefix("tar").removeprefix("zip")](content))
    documents, bad = read(path, part_bytes, type="jsonl")
    assert [text for text, _ in documents] == [f"text {n}" for n in range(21)]
    assert documents[4][1] == f"a.{archive}!folder/1.jsonl.gz:19"
    assert not bad.counts
    assert not bad.skipped


@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_every_reader_reads_members(
    tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    dump = dump_of([60] * 3)
    contents: dict[str, tuple[bytes, dict[str, Any], int]] = {
        "text": (b"one\n\ntwo\n", {"document": "paragraph"}, 2),
        "csv": (b"n,text\n1,one\n2,two\n", {"quoted_newlines": False}, 2),
        "tsv": (b"n\ttext\n1\tone\n2\ttwo\n", {}, 2),
        "mediawiki": (dump, {}, 3),
        "warc": (b"".join(records_of(0, 4)), {}, 4),
    }
    for kind, (content, options, num_documents) in contents.items():
        path = tmp_path / f"{kind}.archive"
        path.write_bytes(pack({"a": content, "b": bz2.compress(content)}))
        documents, bad = read(path, type=kind, **options)
        half = len(documents) // 2
        assert half == num_documents, kind
        assert [text for text, _ in documents[:half]] == [text for text, _ in documents[half:]]
        assert not bad.counts, kind


def test_what_is_no_file_is_counted_by_kind(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind in (
            ("folder", tarfile.DIRTYPE),
            ("link", tarfile.SYMTYPE),
            ("hard", tarfile.LNKTYPE),
            ("pipe", tarfile.FIFOTYPE),
            ("empty", tarfile.REGTYPE),
            ("__MACOSX/._one", tarfile.REGTYPE),
            ("x" * 300, tarfile.REGTYPE),
            ("caf\udce9", tarfile.REGTYPE),
        ):
            header = tarfile.TarInfo(name)
            header.type = kind
            archive.addfile(header)
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    documents, bad = read(tmp_path / "a.tar", type="text")
    names = ["empty", "x" * 300, "caf\\xe9"]
    assert documents == [("", f"a.tar!{name}:0") for name in names]
    assert bad.skipped == {
        "folder in an archive": 1,
        "link in an archive": 2,
        "pipe in an archive": 1,
        "macOS metadata in an archive": 1,
    }
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.mkdir("folder")
        zipped.writestr("folder/empty", "")
        zipped.writestr("__MACOSX/folder/._one", b"\0\5\x16\7")
        zipped.writestr("folder/inner.zip", zip_of({"a": b"text"}))
        link = zipfile.ZipInfo("link")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        zipped.writestr(link, "target")
    documents, bad = read(tmp_path / "a.zip", type="text")
    assert documents == [("", "a.zip!folder/empty:0")]
    assert bad.skipped.total() == 3
    assert bad.counts == {"a zip archive in an archive": 1}
    assert bad.not_read_bytes.total() > 100


def test_members_are_chosen_by_patterns(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(zip_of({"README": b"words", "data/a.jsonl": jsonl(0, 2)}))
    documents, bad = read(path, type="jsonl", members=["*.jsonl"])
    assert len(documents) == 2
    assert bad.skipped == {"member not in `members`": 1}
    assert bad.skipped_bytes.total() == 5


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_a_damaged_zip_member_costs_itself(tmp_path: Path, method: int) -> None:
    members = {f"{n}.jsonl": jsonl(100 * n, 100 * n + 100) for n in range(3)}
    content = bytearray(zip_of(members, method))
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    whole, bad = read(path, type="jsonl")
    assert len(whole) == 300
    assert not bad.counts
    with zipfile.ZipFile(path) as archive:
        entry = archive.infolist()[1]
    content[entry.header_offset + 36 + entry.compress_size // 2] ^= 0x55
    path.write_bytes(content)
    for part_bytes in (1, WHOLE_BYTES):
        documents, bad = read(path, part_bytes, type="jsonl")
        assert set(documents) < set(whole)
        assert {text for text, _ in whole if int(text[5:]) // 100 != 1} <= {t for t, _ in documents}
        assert bad.counts[DAMAGED] == 1
        assert 0 < bad.not_read_bytes[DAMAGED] <= entry.compress_size


def test_encrypted_and_unknown_zip_members_are_counted(tmp_path: Path) -> None:
    content = bytearray(zip_of({"one": b"one" * 50, "two": b"two" * 50, "three": b"three"}))
    directory = content.index(b"PK\x01\x02")
    content[directory + 8] |= 1
    second = content.index(b"PK\x01\x02", directory + 4)
    content[second + 10 : second + 12] = struct.pack("<H", 9)
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    documents, bad = read(path, type="text")
    assert documents == [("three", "a.zip!three:0")]
    assert bad.counts == {
        "encrypted member of an archive": 1,
        "zip member compressed by method 9": 1,
    }
    assert all(bad.not_read_bytes.values())


def test_a_damaged_or_cut_tar_archive_is_read_where_it_is_whole(tmp_path: Path) -> None:
    members = {f"{n}.jsonl": jsonl(10 * n, 10 * n + 10) for n in range(5)}
    content = bytearray(tar_of(members, tarfile.USTAR_FORMAT))
    path = tmp_path / "a.tar"
    header = content.index(b"2.jsonl")
    damaged = content.copy()
    damaged[header + 150] ^= 0x55
    path.write_bytes(damaged)
    for part_bytes in (1, WHOLE_BYTES):
        documents, bad = read(path, part_bytes, type="jsonl")
        assert [int(text[5:]) // 10 for text, _ in documents[::10]] == [0, 1, 3, 4]
        assert (len(documents), bad.counts) == (40, {DAMAGED: 1})
        assert bad.not_read_bytes[DAMAGED] == 1024
    path.write_bytes(content[: header + 512 + 45])
    for part_bytes in (1, WHOLE_BYTES):
        documents, bad = read(path, part_bytes, type="jsonl")
        assert len(documents) == 22
        assert bad.counts[DAMAGED] == 1
        assert bad.cut_files
    path.write_bytes(content + content)  # as `cat a.tar b.tar` writes
    documents, bad = read(path, type="jsonl")
    assert (len(documents), bad.counts) == (100, {})
    path.write_bytes(gzip.compress(content)[:-30])
    documents, bad = read(path, type="jsonl")
    assert bad.counts == {"damaged or truncated compression": 1}
    assert bad.cut_files


@pytest.mark.parametrize("archive", ["zip", "tar"])
def test_spans_of_an_archive_give_every_member_once(tmp_path: Path, archive: str) -> None:
    members = {f"{n}.txt": f"text {n}".encode() * (n % 7) for n in range(60)}
    path = tmp_path / "a"
    path.write_bytes(tar_of(members) if archive == "tar" else zip_of(members))
    checked = reader_config({"files": [str(path)], "type": "text"})
    (file,) = list_files(checked.files, "files")
    expected = read(path, type="text")[0]
    assert len(expected) == 60
    for part_bytes in (1, 100, 1_000):
        spans = checked.build().spans(file, part_bytes)
        assert len(spans) > 1
        assert all(a.end == b.start for a, b in pairwise(spans))
        assert read(path, part_bytes, type="text")[0] == expected


def test_a_zip64_archive_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive, archive.open("a", "w", force_zip64=True) as member:
        member.write(b"one")
    assert read(path, type="text")[0] == [("one", "a.zip!a:0")]
