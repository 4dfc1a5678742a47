"""Every reader: the same documents wherever a file is cut, and bad input counted, never lost."""

import bz2
import codecs
import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from configs.load import UserError
from data_prep.documents.ingest import ingest_stage
from data_prep.readers import ReaderConfig
from data_prep.readers.document import BadRecords
from data_prep.readers.files import list_files
from tests.data_prep.corpora import config_of
from tests.data_prep.corpora import read_documents as read

# A busy machine may be slow; how long an example takes is not what these tests are about.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")


lines = st.lists(
    st.sampled_from(["", " ", "a", "word", "two words", "ü" * 5, "\r", "x" * 30]), max_size=30
)


@settings(max_examples=150)
@given(lines, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.integers(1, 60))
def test_text_gives_the_same_documents_wherever_it_is_cut(tmp_path_factory, lines, end, last, cut):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes((end.join(lines) + (end if last else "")).encode())
    for unit in ("line", "paragraph"):
        assert read(path, cut, type="text", document=unit) == read(path, type="text", document=unit)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 400), max_size=40), st.integers(1, 3000))
def test_sections_are_the_same_wherever_a_file_is_cut(tmp_path_factory, lengths, cut):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text("\n".join("x" * length for length in lengths))
    config = {"type": "text", "document": "section", "section_bytes": 256}
    documents, _ = read(path, **config)
    assert read(path, cut, **config)[0] == documents
    kept = "".join(text for text, _ in documents).split()
    assert kept == path.read_text().split()


@settings(max_examples=50)
@given(st.lists(st.text(max_size=20).filter(lambda t: "\0" not in t)), st.integers(1, 200))
def test_json_lines_are_the_same_wherever_a_file_is_cut(tmp_path_factory, texts, cut):
    path = tmp_path_factory.mktemp("jsonl") / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    documents, bad = read(path, cut, type="jsonl")
    assert [text for text, _ in documents] == texts
    assert not bad
    assert read(path, type="jsonl")[0] == documents


def test_paragraphs_sections_and_files():
    folder = Path(__file__).parent
    (documents, _) = read(folder / "test_data_readers.py", type="text", document="file")
    assert documents[0] == ((folder / "test_data_readers.py").read_text(), "test_data_readers.py:0")


def test_paragraphs_end_at_blank_lines(tmp_path):
    (tmp_path / "a.txt").write_text("\n\none\none\n \ntwo\n\n\nthree")
    documents, _ = read(tmp_path / "a.txt", type="text", document="paragraph")
    assert [text.strip() for text, _ in documents] == ["one\none", "two", "three"]


RECORDS = [{"text": f'text {n}\nof two lines, "quoted"', "key": f"k{n}"} for n in range(50)]


def write_jsonl(path):
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))


def write_gzip(path):
    path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in RECORDS).encode()))


def write_zstd(path):  # two frames, as `cat a.zst b.zst` gives
    compress = zstandard.ZstdCompressor().compress
    half = [
        "".join(json.dumps(r) + "\n" for r in part).encode() for part in (RECORDS[:9], RECORDS[9:])
    ]
    path.write_bytes(compress(half[0]) + compress(half[1]))


def write_bz2(path):
    path.write_bytes(bz2.compress("".join(json.dumps(r) + "\n" for r in RECORDS).encode()))


def write_parquet(path):
    pq.write_table(pa.Table.from_pylist(RECORDS), path, row_group_size=7)


def write_csv(path, delimiter=","):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, ["key", "text"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(RECORDS)


def write_arrow(path):
    table = pa.Table.from_pylist(RECORDS)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, max_chunksize=6)


FORMATS = {
    "a.jsonl": ("jsonl", write_jsonl),
    "a.jsonl.gz": ("jsonl", write_gzip),
    "a.jsonl.zst": ("jsonl", write_zstd),
    "a.jsonl.bz2": ("jsonl", write_bz2),
    "a.parquet": ("parquet", write_parquet),
    "a.csv": ("csv", write_csv),
    "a.tsv": ("tsv", lambda path: write_csv(path, "\t")),
    "a.arrow": ("hf_dataset", write_arrow),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_gives_texts_and_ids_wherever_it_is_cut(tmp_path, name):
    kind, write = FORMATS[name]
    write(tmp_path / name)
    expected = [(record["text"], record["key"]) for record in RECORDS]
    for part_bytes in (1 << 30, 500, 1):
        assert read(tmp_path / name, part_bytes, type=kind, id_field="key") == (expected, {})
    by_place, _ = read(tmp_path / name, type=kind)
    assert by_place[0][1].startswith(f"{name}:")
    assert len({number for _, number in by_place}) == len(RECORDS)


@pytest.mark.parametrize("name", FORMATS)
def test_files_are_parts_by_their_size(tmp_path, name):
    """Large files are many parts, and many small ones share one."""
    kind, write = FORMATS[name]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / name)
    reader = {"type": kind, "files": [f"{tmp_path}/*/*"]}

    def parts_of(part_mb):
        sources = {"forum": {"reader": reader}}
        return ingest_stage(config_of(tmp_path, sources=sources, part_mb=part_mb)).parts

    (together,) = parts_of(64)
    assert len(together.arguments["spans"]) == 2
    parts = parts_of(0.001)
    is_cut = name in ("a.jsonl", "a.parquet", "a.arrow")
    assert (len(parts) >= 4) == is_cut
    assert sum(part.num_bytes for part in parts) == together.num_bytes


@pytest.mark.parametrize("name", [n for n in FORMATS if n not in ("a.jsonl", "a.csv", "a.tsv")])
def test_a_truncated_file_is_one_bad_record_and_what_precedes_is_read(tmp_path, name):
    kind, write = FORMATS[name]
    write(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) * 2 // 3])
    documents, bad = read(tmp_path / name, type=kind, id_field="key")
    assert documents == [(r["text"], r["key"]) for r in RECORDS[: len(documents)]]
    if name in (
        "a.jsonl.gz",
        "a.jsonl.zst",
        "a.arrow",
    ):  # bz2 and Parquet are whole or nothing here
        assert len(documents) > 5
    assert sum(bad.values()) == 1
    assert "truncated" in next(iter(bad))
    with pytest.raises(UserError, match=r"truncated(.|\n)*on_bad_record: skip"):
        read(tmp_path / name, policy="stop", type=kind, id_field="key")


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.arrow"])
def test_a_missing_column_stops_the_job(tmp_path, name):
    kind, write = FORMATS[name]
    write(tmp_path / name)
    with pytest.raises(UserError, match=r"no column 'body'(.|\n)*key"):
        read(tmp_path / name, type=kind, text_field="body")


def test_bad_json_lines_are_counted_by_reason(tmp_path):
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
        "not JSON": 4,
        "JSON, but no object": 1,
        "the field 'text' is missing": 1,
        "the field 'text' is no text": 1,
        "NUL byte": 1,
    }


def test_text_that_is_not_utf8_is_counted_with_its_offset(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good\nbad \xe9\nnul \0\ngood\n")
    documents, bad = read(tmp_path / "a.txt", type="text", document="line")
    assert [number for _, number in documents] == ["a.txt:0", "a.txt:17"]
    assert bad == {"not UTF-8": 1, "NUL byte": 1}
    with pytest.raises(UserError, match=r"a\.txt: not UTF-8 at offset 9"):
        read(tmp_path / "a.txt", policy="stop", type="text", document="line")


def test_a_null_text_is_counted(tmp_path):
    pq.write_table(pa.table({"text": ["a", None, "b"]}), tmp_path / "a.parquet")
    documents, bad = read(tmp_path / "a.parquet", type="parquet")
    assert [text for text, _ in documents] == ["a", "b"]
    assert bad == {"the field 'text' is missing": 1}


def test_files_are_found_by_pattern_in_a_fixed_order(tmp_path):
    for name in ("b/2.txt", "a/1.txt", "a/0.md", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    patterns = [str(tmp_path / "**/*.txt"), str(tmp_path / "a/*")]
    found = list_files(patterns, "files")
    assert [Path(file.path).name for file in found] == ["0.md", "1.txt", "2.txt", "c.txt"]
    with pytest.raises(UserError, match=r"files: '.*/\*\.csv' matches no file"):
        list_files([str(tmp_path / "*.csv")], "files")
    with pytest.raises(UserError, match="is a folder"):
        list_files([str(tmp_path / "a")], "files")


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_file_that_changes_or_disappears_after_planning_stops_the_job(tmp_path, scheme):
    path = tmp_path / "a.jsonl"
    write_jsonl(path)
    config = TypeAdapter(ReaderConfig).validate_python(
        {"type": "jsonl", "files": [f"{scheme}{path}"]}
    )
    (file,) = list_files(config.files, "files")
    reader = config.build()
    (span,) = reader.spans(file, 1 << 30)
    path.write_text(path.read_text() + '{"text": "more"}\n')
    with pytest.raises(UserError, match=r"changed since the plan(.|\n)*--restart-from ingest"):
        list(reader.read(span, BadRecords("skip")))
    path.unlink()
    with pytest.raises(UserError, match="disappeared since the plan"):
        list(reader.read(span, BadRecords("skip")))


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_file_gives_nothing_or_one_bad_record(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    documents, bad = read(tmp_path / name, type=FORMATS[name][0])
    assert documents == []
    assert sum(bad.values()) <= 1
