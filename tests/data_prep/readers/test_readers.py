"""Every reader: the same documents wherever a file is cut, and bad input counted, never lost."""

import codecs
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.load import UserError
from tests.data_prep.readers.formats import FORMATS, RECORDS
from tests.data_prep.readers.reading import WHOLE_BYTES
from tests.data_prep.readers.reading import read_documents as read

lines = st.lists(
    st.sampled_from(["", " ", "a", "word", "two words", "ü" * 5, "\r", "x" * 30]), max_size=30
)


@settings(max_examples=150)
@given(lines, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.integers(1, 60))
def test_text_gives_the_same_documents_wherever_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], end: str, last: bool, cut: int
) -> None:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes((end.join(lines) + (end if last else "")).encode())
    for unit in ("line", "paragraph"):
        assert read(path, cut, type="text", document=unit) == read(path, type="text", document=unit)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 400), max_size=40), st.integers(1, 3000))
def test_sections_are_the_same_wherever_a_file_is_cut(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], cut: int
) -> None:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text("\n".join("x" * length for length in lengths))
    config: dict[str, Any] = {"type": "text", "document": "section", "section_bytes": 256}
    documents, _ = read(path, WHOLE_BYTES, **config)
    assert read(path, cut, **config)[0] == documents
    kept = "".join(text for text, _ in documents).split()
    assert kept == path.read_text().split()


@settings(max_examples=50)
@given(st.lists(st.text(max_size=20).filter(lambda t: "\0" not in t)), st.integers(1, 200))
def test_json_lines_are_the_same_wherever_a_file_is_cut(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], cut: int
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    documents, bad = read(path, cut, type="jsonl")
    assert [text for text, _ in documents] == texts
    assert not bad
    assert read(path, type="jsonl")[0] == documents


def test_a_file_is_one_document(tmp_path: Path) -> None:
    text = "one\n\ntwo\nand no newline at the end"
    (tmp_path / "a.txt").write_text(text)
    assert read(tmp_path / "a.txt", 5, type="text", document="file") == ([(text, "a.txt:0")], {})


def test_paragraphs_end_at_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\none\none\n \ntwo\n\n\nthree")
    documents, _ = read(tmp_path / "a.txt", type="text", document="paragraph")
    assert [text.strip() for text, _ in documents] == ["one\none", "two", "three"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_gives_texts_and_ids_wherever_it_is_cut(tmp_path: Path, name: str) -> None:
    kind, write = FORMATS[name]
    write(tmp_path / name)
    expected = [(record["text"], record["key"]) for record in RECORDS]
    for part_bytes in (1 << 30, 500, 1):
        assert read(tmp_path / name, part_bytes, type=kind, id_field="key") == (expected, {})
    by_place, _ = read(tmp_path / name, type=kind)
    assert by_place[0][1].startswith(f"{name}:")
    assert len({number for _, number in by_place}) == len(RECORDS)


@pytest.mark.parametrize("name", [n for n in FORMATS if n not in ("a.jsonl", "a.csv", "a.tsv")])
def test_a_truncated_file_is_one_bad_record_after_its_intact_documents(
    tmp_path: Path, name: str
) -> None:
    kind, write = FORMATS[name]
    write(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) * 2 // 3])
    documents, bad = read(tmp_path / name, type=kind, id_field="key")
    assert documents == [(r["text"], r["key"]) for r in RECORDS[: len(documents)]]
    if name in ("a.jsonl.gz", "a.jsonl.zst", "a.arrow"):  # bz2 and Parquet files are lost here
        assert len(documents) > 5
    assert sum(bad.values()) == 1
    assert "truncated" in next(iter(bad))
    with pytest.raises(UserError, match=r"truncated(.|\n)*on_bad_record: skip"):
        read(tmp_path / name, policy="stop", type=kind, id_field="key")


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.arrow"])
def test_a_missing_column_stops_the_job(tmp_path: Path, name: str) -> None:
    kind, write = FORMATS[name]
    write(tmp_path / name)
    with pytest.raises(UserError, match=r"no column 'body'(.|\n)*key"):
        read(tmp_path / name, type=kind, text_field="body")


def test_bad_json_lines_are_counted_by_reason(tmp_path: Path) -> None:
    rows = [
        b'{"text": "good"}',
        b"",
        b'{"text": "cut',
        b'["text"]',
        b'{"body": "x"}',
        b'{"text": 7}',
        b'{"text": "\\u0000"}',
        b'{"text": "\xff"}',
        b'{"text": "half a \\ud83d pair"}',
        b"[" * 100_000,
        b'{"text": "good too", "id": 5}',
        b'{"text": "not quite JSON", "score": NaN, "id": 1' + b"0" * 30 + b"}",
    ]
    (tmp_path / "a.jsonl").write_bytes(codecs.BOM_UTF8 + b"\r\n".join(rows))
    documents, bad = read(tmp_path / "a.jsonl", type="jsonl", id_field="id")
    assert documents == [
        ("good", "a.jsonl:0"),
        ("good too", "5"),
        ("not quite JSON", "1" + "0" * 30),
    ]
    assert bad == {
        "not JSON": 2,
        "not UTF-8": 1,
        "half a surrogate pair in the text": 1,
        "JSON, but no object": 1,
        "the field 'text' is missing": 1,
        "the field 'text' is no text": 1,
        "NUL byte": 1,
    }


def test_text_that_is_not_utf8_is_counted_with_its_offset(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good\nbad \xe9\nnul \0\ngood\n")
    documents, bad = read(tmp_path / "a.txt", type="text", document="line")
    assert [number for _, number in documents] == ["a.txt:0", "a.txt:17"]
    assert bad == {"not UTF-8": 1, "NUL byte": 1}
    with pytest.raises(UserError, match=r"a\.txt: not UTF-8 at offset 9"):
        read(tmp_path / "a.txt", policy="stop", type="text", document="line")


def test_a_null_text_is_counted(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", None, "b"]}), tmp_path / "a.parquet")
    documents, bad = read(tmp_path / "a.parquet", type="parquet")
    assert [text for text, _ in documents] == ["a", "b"]
    assert bad == {"the field 'text' is missing": 1}


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_file_gives_nothing_or_one_bad_record(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    documents, bad = read(tmp_path / name, type=FORMATS[name][0])
    assert documents == []
    assert sum(bad.values()) <= 1
