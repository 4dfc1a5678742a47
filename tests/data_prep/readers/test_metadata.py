"""Fields of records that are kept beside the text."""

import csv
import datetime
import decimal
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.readers.document import BadRecords
from data_prep.readers.files import list_files
from data_prep.readers.metadata import as_json
from tests.data_prep.readers.reading import WHOLE_BYTES, reader_config

RECORDS: list[dict[str, Any]] = [
    {"text": "one", "score": 0.5, "more": {"tags": ["a", "b"], "n": 1}},
    {"text": "two", "score": None, "more": {"tags": [], "n": 2}},
]


def metadata_in(path: Path, part_bytes: int = WHOLE_BYTES, **config: Any) -> list[Any]:
    checked = reader_config({"files": [str(path)], **config})
    reader, bad = checked.build(), BadRecords("stop")
    return [
        document.metadata
        for file in list_files(checked.files, "files")
        for span in reader.spans(file, part_bytes)
        for document in reader.read(span, bad)
    ]


def write(path: Path) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(RECORDS), path)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))


@pytest.mark.parametrize(("name", "kind"), [("a.jsonl", "jsonl"), ("a.parquet", "parquet")])
def test_chosen_fields_are_metadata(tmp_path: Path, name: str, kind: str) -> None:
    write(tmp_path / name)
    fields = ["score", "more.tags", "more"]
    found = metadata_in(tmp_path / name, type=kind, metadata_fields=fields)
    assert found == [
        {"score": 0.5, "more.tags": ["a", "b"], "more": {"tags": ["a", "b"], "n": 1}},
        {"score": None, "more.tags": [], "more": {"tags": [], "n": 2}},
    ]
    assert metadata_in(tmp_path / name, type=kind) == [None, None]


def test_what_a_record_lacks_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one", "a": 1}\n{"text": "two"}\n')
    found = metadata_in(path, type="jsonl", metadata_fields=["a", "b.c"])
    assert found == [{"a": 1}, {}]


def test_columns_of_csv_are_metadata(tmp_path: Path) -> None:
    content = io.StringIO()
    csv.writer(content).writerows([["text", "score"], ["one, two", "0.25"]])
    (tmp_path / "a.csv").write_text(content.getvalue())
    assert metadata_in(tmp_path / "a.csv", type="csv", metadata_fields=["score"]) == [
        {"score": "0.25"}
    ]


def test_web_archives_give_address_and_date(tmp_path: Path) -> None:
    body = b"Some text of a page."
    head = (
        "WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: http://example.org/a\r\n"
        "WARC-Record-ID: <urn:uuid:1>\r\nWARC-Date: 2024-05-06T07:08:09Z\r\n"
        "Content-Type: text/plain\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    (tmp_path / "a.wet").write_bytes(head.encode() + body + b"\r\n\r\n")
    config: dict[str, Any] = {"type": "warc", "metadata_fields": ["url", "date"]}
    assert metadata_in(tmp_path / "a.wet", **config) == [
        {"url": "http://example.org/a", "date": "2024-05-06T07:08:09Z"}
    ]


def test_wikis_give_the_title(tmp_path: Path) -> None:
    page = "<page><title>Some &amp; more</title><ns>0</ns><revision><text>Words.</text></revision>"
    (tmp_path / "a.xml").write_text(f"<mediawiki>\n{page}</page>\n</mediawiki>\n")
    config: dict[str, Any] = {"type": "mediawiki", "metadata_fields": ["title"]}
    assert metadata_in(tmp_path / "a.xml", **config) == [{"title": "Some & more"}]


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"a": "x", "b": [1, None, True]}, {"a": "x", "b": [1, None, True]}),
        ({"a": datetime.date(2024, 5, 6)}, {"a": "2024-05-06"}),
        ({"a": decimal.Decimal("1.50")}, {"a": "1.50"}),
        ({"a": b"bytes"}, {"a": "b'bytes'"}),
        ({"a": "half \ud83d of a pair"}, {"a": "half ? of a pair"}),
        ({"a": {"\udc00": 1 << 70}}, {"a": {"?": str(1 << 70)}}),
        ({"a": float("nan")}, {"a": None}),
    ],
)
def test_any_value_can_be_stored(metadata: Mapping[str, Any], expected: Any) -> None:
    assert json.loads(as_json(metadata)) == expected
