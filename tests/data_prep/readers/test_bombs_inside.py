"""Archives, long windows and JSON values of a few kilobytes that hold gigabytes."""

import io
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest

from data_prep.readers.document import BadRecords
from data_prep.readers.files import list_files
from tests.data_prep.readers.reading import reader_config
from tests.data_prep.readers.test_bombs import (
    CONTENT_BYTES,
    LINES,
    MAX_DOCUMENT_BYTES,
    MEMORY_MB,
    gzip_bomb,
    peak_mb_of,
    read_bomb,
    zstandard_bomb,
)


def zip_bomb(head: bytes, tail: bytes, method: int) -> bytes:
    buffer = io.BytesIO()
    zeros = bytes(1 << 20)
    with zipfile.ZipFile(buffer, "w", method) as archive, archive.open("a", "w") as member:
        member.write(head)
        for _ in range(CONTENT_BYTES >> 22):
            member.write(zeros)
        member.write(tail)
    return buffer.getvalue()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["deflate", "bzip2", "lzma", "tar", "nested"])
def test_a_member_of_an_archive_that_expands_costs_a_line(tmp_path: Path, kind: str) -> None:
    head, tail, reason = LINES["jsonl"]
    path = tmp_path / "a.archive"
    methods = {"deflate": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2, "lzma": 14}
    if kind in methods:
        content = zip_bomb(head.encode(), tail.encode(), methods[kind])
    else:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            bomb = gzip_bomb(head.encode(), tail.encode())
            header = tarfile.TarInfo("a.gz")
            header.size = len(bomb)
            archive.addfile(header, io.BytesIO(bomb))
        content = buffer.getvalue()
        content = content if kind == "tar" else zlib.compress(content, wbits=31)
    path.write_bytes(content)
    assert path.stat().st_size < 700_000
    peak, (num_documents, bad) = peak_mb_of(lambda: _counts(path, "jsonl"))
    assert peak < MEMORY_MB
    assert (num_documents, bad) == (2, {reason: 1})


def _counts(path: Path, kind: str) -> tuple[int, dict[str, int]]:
    checked = reader_config({"files": [str(path)], "type": kind})
    bad = BadRecords("skip", MAX_DOCUMENT_BYTES)
    (file,) = list_files(checked.files, "files")
    reader = checked.build()
    spans = reader.spans(file, 1 << 30)
    return sum(1 for span in spans for _ in reader.read(span, bad)), dict(bad.counts)


def test_attributes_of_a_tar_member_that_expand_are_not_held(tmp_path: Path) -> None:
    header = tarfile.TarInfo("name")
    header.type, header.size = tarfile.XHDTYPE, CONTENT_BYTES
    member = tarfile.TarInfo("a.jsonl")
    member.size = 16
    whole = member.tobuf() + b'{"text": "one"}\n'.ljust(512, b"\0")
    content = whole + header.tobuf()
    path = tmp_path / "a.tar.zst"
    path.write_bytes(zstandard_bomb(content, whole + bytes(1024)))
    peak, (num_documents, bad) = peak_mb_of(lambda: _counts(path, "jsonl"))
    assert peak < MEMORY_MB
    assert (num_documents, bad) == (2, {"damaged or truncated archive": 1})


def test_a_window_takes_memory_as_far_as_it_is_filled(tmp_path: Path) -> None:
    frame = bytearray(zstandard_bomb(b'{"text": "one"}\n', b"")[: 40 * 4])
    frame[5] = 21 << 3  # a window of 2 GiB, most of which is never filled
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(frame)
    peak, (num_documents, _) = peak_mb_of(lambda: _counts(path, "jsonl"))
    assert peak < 200
    assert num_documents == 1


@pytest.mark.timeout(120)
@pytest.mark.parametrize("layout", ["string", "array", "between", "strings"])
def test_json_values_that_expand_are_counted(tmp_path: Path, layout: str) -> None:
    head, tail = {
        "string": ('[{"text": "one"},\n{"text": "', '"},\n{"text": "two"}]'),
        "array": ('[{"text": "one"},\n{"list": [', ']},\n{"text": "two"}]'),
        "between": ('[{"text": "one"},\n', ',\n{"text": "two"}]'),
        "strings": ('{"text": "one"}{"text": "', '"}{"text": "two"}'),
    }[layout]
    path = tmp_path / "a.json.zst"
    path.write_bytes(zstandard_bomb(head.encode(), tail.encode()))
    found = read_bomb(path, type="jsonl")
    assert found["documents"] == 2
    assert found["bad"] == {"longer than max_document_mb": 1}
    assert found["bytes"]["longer than max_document_mb"] >= CONTENT_BYTES
