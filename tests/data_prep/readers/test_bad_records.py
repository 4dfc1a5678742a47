"""Every record that gives no document is counted and reported with its place."""

import gzip
from pathlib import Path

import pytest

from data_prep.readers.document import BadRecords, UnusedRecord
from data_prep.readers.files import Span, list_files
from tests.data_prep.readers.reading import reader_config


def test_unused_records_are_reported() -> None:
    seen: list[UnusedRecord] = []
    bad = BadRecords("skip", report=seen.append)
    bad.add("a.jsonl", 7, "not JSON", "line 1", num_bytes=5)
    bad.add_cut("a.jsonl", 12, "cut inside a record", num_bytes=3)
    bad.skip("redirect", 9, "b.xml", 40)
    bad.skip("image", 4)
    assert [(*record[:4], record.num_bytes) for record in seen] == [
        ("a.jsonl", 7, "bad", "not JSON", 5),
        ("a.jsonl", 12, "bad", "cut inside a record", 3),
        ("b.xml", 40, "skipped", "redirect", 9),
    ]
    assert dict(bad.skipped) == {"redirect": 1, "image": 1}
    assert dict(bad.not_read_bytes) == {"cut inside a record": 3}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("reader", "start", "last"),
    [
        ({"type": "jsonl"}, '{"text": "one"}\n', '{"text": "' + "x" * 999),
        ({"type": "jsonl"}, '[{"text": "one"},', '{"text": "' + "x" * 999),
        ({"type": "csv"}, "id,text\n1,one\n", '2,"' + "x" * 999),
        ({"type": "csv", "quoted_newlines": False}, "id,text\n1,one\n", "x" * 999),
    ],
)
def test_the_bytes_of_a_cut_record_are_counted(
    tmp_path: Path, suffix: str, reader: dict[str, str], start: str, last: str
) -> None:
    """As bytes of the file, or of the content where that is compressed."""
    path = tmp_path / f"a{suffix}"
    content = (start + last).encode()
    path.write_bytes(gzip.compress(content) if suffix else content)
    (file,) = list_files([str(path)], "files")
    bad = BadRecords("skip")
    built = reader_config({**reader, "files": [str(path)]}).build()
    documents = list(built.read(Span(file, 0, file.num_bytes), bad))
    assert [document.text for document in documents] == ["one"]
    assert bad.cut_files == {str(path): "the file ends inside a record"}
    assert bad.num_bytes.total() == (len(last) if suffix else 0)
    assert bad.not_read_bytes.total() == (0 if suffix else len(last))


def test_short_records_are_guessed_together() -> None:
    bad = BadRecords("skip")
    for word in ("Größe", "Äpfel", "Straße", "über", "Öl"):
        bad.add_undecoded("a.txt", 0, "not UTF-8", f"{word} und mehr".encode("cp1252"))
    assert bad.counts == {"not UTF-8": 5}
    assert bad.guessed_encodings() == {"cp1252": 1}
