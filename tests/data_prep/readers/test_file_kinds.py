"""Files of a kind that their reader does not read are refused by name before the work."""

import bz2
import gzip
from pathlib import Path

import pytest

from configs.load import UserError
from data_prep.readers.files import list_files
from tests.data_prep.readers.reading import WHOLE_BYTES, reader_config
from tests.data_prep.readers.test_members import read, zip_of


def name_of(value: object) -> str:
    """For the names of tests: compressed content holds the time, and so differs in each process."""
    return value if isinstance(value, str) else "content"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive"),
        (b"Rar!\x1a\x07\x01\0", "a rar archive"),
        (b"PAR1\x15\x04", "type: parquet"),
        (b"ARROW1\0\0", "type: hf_dataset"),
        (b"WARC/1.0\r\nWARC-Type: x", "type: warc"),
        (gzip.compress(b"WARC/1.0\r\nWARC-Type: x"), "type: warc"),
        (b'<mediawiki xmlns="x">', "type: mediawiki"),
        (b"%PDF-1.4", "a PDF document"),
        (zip_of({"[Content_Types].xml": b"x"}), "an Office or EPUB document"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        (b"\x1f\x9d\x90", "`compress`"),
        (b"\x02\x21\x4c\x18", "lz4's old format"),
        (gzip.compress(bz2.compress(b"one")), "compressed twice"),
        (gzip.compress(zip_of({"a": b"one"})), "a compressed zip archive"),
        (b"\x28\xb5\x2f\xfd\x23\x07\x00\x00\x00\x01\x01\x00\x00", "a dictionary"),
    ],
    ids=name_of,
)
def test_files_of_other_kinds_are_refused_by_name_before_the_work(
    tmp_path: Path, content: bytes, named: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    checked = reader_config({"files": [str(path)], "type": "jsonl"})
    (file,) = list_files(checked.files, "files")
    with pytest.raises(UserError, match=r"a\.jsonl") as found:
        checked.build().spans(file, WHOLE_BYTES)
    assert named in str(found.value)


@pytest.mark.parametrize(
    ("kind", "content", "named"),
    [
        ("parquet", b'{"text": "one"}', "type: jsonl"),
        ("hf_dataset", b'[{"text": "one"}]', "type: jsonl"),
        ("hf_dataset", b"PAR1", "type: parquet"),
        ("parquet", gzip.compress(b"PAR1"), "a compressed file"),
        ("parquet", zip_of({"a": b"PAR1"}), "an archive"),
        ("warc", b'{"text": "one"}', "type: jsonl"),
        ("mediawiki", b"WARC/1.0\r\n", "type: warc"),
        ("text", b"PAR1", "type: parquet"),
        ("csv", b"%PDF-1.7", "a PDF document"),
    ],
    ids=name_of,
)
def test_every_reader_names_the_right_one(
    tmp_path: Path, kind: str, content: bytes, named: str
) -> None:
    path = tmp_path / "a.lz4"
    path.write_bytes(content)
    checked = reader_config({"files": [str(path)], "type": kind})
    (file,) = list_files(checked.files, "files")
    with pytest.raises(UserError) as found:
        checked.build().spans(file, WHOLE_BYTES)
    assert named in str(found.value)


def test_json_is_text_for_a_reader_of_text(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"text": "one"}')
    assert read(path, type="text")[0] == [('{"text": "one"}', "a.json:0")]
