"""Zip archives that are cut or whose directory is damaged: what is whole of them is read."""

import gzip
import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.data_prep.readers.reading import WHOLE_BYTES
from tests.data_prep.readers.test_members import jsonl, read, tar_of, zip_of


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_STORED])
def test_a_zip_archive_without_its_directory_is_read_as_far_as_it_goes(
    tmp_path: Path, method: int, is_streamed: bool
) -> None:
    buffer = io.BytesIO()
    target: Any = _WriteOnly(buffer) if is_streamed else buffer
    with zipfile.ZipFile(target, "w", method) as archive:
        for n in range(3):
            archive.writestr(f"{n}.jsonl", jsonl(1000 * n, 1000 * n + 1000))
    content = buffer.getvalue()
    third = content.index(b"2.jsonl") + 300
    path = tmp_path / "a.zip"
    for cut, fewest in ((content.index(b"PK\x01\x02") + 50, 3000), (third, 2000)):
        path.write_bytes(content[:cut])
        if is_streamed and method == zipfile.ZIP_STORED:  # the end of a member is not known
            fewest = 0
        expected = None
        for part_bytes in (1, WHOLE_BYTES):
            documents, bad = read(path, part_bytes, type="jsonl")
            assert len(documents) >= fewest
            assert str(path) in bad.cut_files
            assert expected in (None, documents)
            expected = documents


class _WriteOnly:
    """A file that cannot be sought, such as a pipe."""

    def __init__(self, file: io.BytesIO) -> None:
        self.write, self.flush = file.write, file.flush


def test_a_directory_that_does_not_fit_the_archive_is_not_believed(tmp_path: Path) -> None:
    content = zip_of({"a.jsonl": jsonl(0, 100), "b.jsonl": jsonl(100, 200)})
    first = content.index(b"PK\x01\x02")
    second, end = content.index(b"PK\x01\x02", first + 1), content.index(b"PK\x05\x06")
    size = struct.pack("<I", second - first)
    for damaged in (
        content[:40] + content[50:],
        content[: first + 42] + b"\xff\xff\xff\0" + content[first + 46 :],
        content[:second] + content[end : end + 12] + size + content[end + 16 :],
    ):
        path = tmp_path / "a.zip"
        path.write_bytes(damaged)
        for part_bytes in (1, WHOLE_BYTES):
            documents, bad = read(path, part_bytes, type="jsonl")
            assert len(documents) >= 100
            assert list(bad.cut_files) == [str(path)]


def test_archives_compressed_in_an_archive_are_no_text(tmp_path: Path) -> None:
    """Headers of an inner archive would be taken for text."""
    inner = tar_of({"a.txt": b"one"})
    members = {
        "a.tar.gz": gzip.compress(inner),
        "a.txt.gz.gz": gzip.compress(gzip.compress(b"two")),
        "a.pdf.gz": gzip.compress(b"%PDF-1.7 three"),
        "a.txt.gz": gzip.compress(b"four"),
    }
    for name, content in (("a.zip", zip_of(members)), ("a.tar", tar_of(members))):
        path = tmp_path / name
        path.write_bytes(content)
        documents, bad = read(path, type="text")
        assert [text for text, _ in documents] == ["four"]
        assert bad.not_read_bytes == {
            "a tar archive in an archive": len(members["a.tar.gz"]),
            "a file that is compressed twice in an archive": len(members["a.txt.gz.gz"]),
            "a PDF document in an archive": len(members["a.pdf.gz"]),
        }


def test_what_follows_a_compressed_archive_costs_its_own_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(tar_of({"a.txt": b"one"})) + b"\n\n")
    documents, bad = read(path, type="text")
    assert [text for text, _ in documents] == ["one"]
    assert bad.not_read_bytes.total() == 2
    assert not bad.cut_files
