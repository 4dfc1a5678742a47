"""Zip archives that are cut or whose directory is damaged: what is whole of them is read."""

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.data_prep.readers.reading import WHOLE_BYTES
from tests.data_prep.readers.test_members import jsonl, read, zip_of


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
