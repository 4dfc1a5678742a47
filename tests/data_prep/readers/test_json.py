"""JSON in every layout and encoding, with damage, and with fields in nested objects."""

import bz2
import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from data_prep.readers.compression import Chunk
from data_prep.readers.document import BadRecords
from data_prep.readers.fields import MISSING, field_of
from data_prep.readers.files import Span, list_files
from data_prep.readers.json_values import JsonValues, Layout, layout_of
from data_prep.readers.likely_encoding import likely_encoding
from tests.data_prep.readers.reading import read_documents, reader_config
from tests.data_prep.readers.test_members import read

TEXTS = ["one", "two\nlines", 'with "quotes" and \\', "{[ brackets", "naïve 日本", "] } ,"] * 5
RECORDS = [{"text": text, "n": n, "more": {"list": [1, [2]]}} for n, text in enumerate(TEXTS)]
Layouts = dict[str, Callable[[Sequence[Any]], str]]
LAYOUTS: Layouts = {
    "lines": lambda rows: "".join(json.dumps(row) + "\n" for row in rows),
    "lines without the last newline": lambda rows: "\n".join(map(json.dumps, rows)),
    "array on one line": json.dumps,
    "array on lines": lambda rows: "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n",
    "pretty-printed array": lambda rows: json.dumps(rows, indent=2, ensure_ascii=False),
    "pretty-printed objects": lambda rows: "\n".join(json.dumps(row, indent=4) for row in rows),
    "concatenated": lambda rows: "".join(map(json.dumps, rows)),
    "separated by commas": lambda rows: ",".join(map(json.dumps, rows)),
    "two on a line": lambda rows: "".join(
        json.dumps(row) + "\n" * (n % 2) for n, row in enumerate(rows)
    ),
    "sequence (RFC 7464)": lambda rows: "".join(f"\x1e{json.dumps(row)}\n" for row in rows),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("start", ["", "\ufeff", "\n \n"])
def test_every_layout_gives_the_same_texts_wherever_the_file_is_cut(
    tmp_path: Path, layout: str, start: str
) -> None:
    content = (start + LAYOUTS[layout](RECORDS)).encode()
    for name, stored in (
        ("a.json", content),
        ("a.json.gz", gzip.compress(content[:300]) + gzip.compress(content[300:])),
        ("a.json.bz2", bz2.compress(content)),
    ):
        (tmp_path / name).write_bytes(stored)
        expected = None
        for part_bytes in (1, 50, 1 << 30):
            documents, bad = read_documents(tmp_path / name, part_bytes, type="jsonl")
            assert [text for text, _ in documents] == TEXTS
            assert bad == {}
            assert expected in (None, documents)
            expected = documents
        offsets = [int(own_id.rpartition(":")[2]) for _, own_id in expected or []]
        found = [content[at:].lstrip()[:1] for at in offsets]
        assert set(found) <= {b"{", b"\xef", b"\x1e"}


@given(st.integers(0, 9), st.integers(1, 400), st.lists(st.integers(0, 10_000), max_size=4))
def test_records_do_not_depend_on_how_the_content_comes(
    layout: int, piece_bytes: int, cuts: list[int]
) -> None:
    content = LAYOUTS[list(LAYOUTS)[layout]](RECORDS).encode()
    for cut in cuts:  # damage
        at = cut % len(content)
        content = content[:at] + content[at + 3 :]
    whole, pieces = BadRecords("skip"), BadRecords("skip")

    def chunks() -> Iterator[Chunk]:
        for at in range(0, len(content), piece_bytes):
            yield Chunk(at, content[at : at + piece_bytes])

    expected = list(JsonValues(iter([Chunk(0, content)]), "a", whole).records())
    assert list(JsonValues(chunks(), "a", pieces).records()) == expected
    assert pieces == whole
    if not cuts:
        assert [record.value for record in expected] == RECORDS
    # Every byte is in a record, counted, or separates records.
    seen = sum(len(record.raw) for record in expected)
    seen += whole.num_bytes.total() + whole.not_read_bytes.total()
    assert seen <= len(content)
    assert len(content) - seen <= 3 * len(RECORDS) + 100


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_missing_quote_or_bracket_costs_the_records_it_is_in(tmp_path: Path, layout: str) -> None:
    rows = [{"text": f"text {n}", "title": "words"} for n in range(40)]
    content = LAYOUTS[layout](rows)
    path = tmp_path / "a.json"
    for damaged in (
        content.replace("text 20", 'text "20'),
        content.replace('"text 20"', "text 20"),
        content.replace('"text 20', "{text 20"),
        content.replace('"text 20"', '"text 20"}'),
        content.replace('"text 20", ', '"text 20" '),
    ):
        if damaged == content:
            continue
        path.write_text(damaged)
        documents, bad = read(path, type="jsonl")
        lost = {row["text"] for row in rows} - {text for text, _ in documents}
        assert lost <= {"text 19", "text 20", "text 21"}
        assert bad.counts.total() >= 1
        assert bad.num_bytes.total() > 10


def test_many_records_without_an_end_cost_themselves(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(
        '[{"text": "one"},\n' + '{"text": {"more": "x"},\n' * 2_000 + '{"text": "two"}]'
    )
    documents, bad = read(path, type="jsonl")
    assert [text for text, _ in documents] == ["one", "two"]
    assert bad.counts == {"not JSON": 2_000}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_that_is_cut_is_reported_as_such(tmp_path: Path, layout: str) -> None:
    content = LAYOUTS[layout](RECORDS).encode()
    path = tmp_path / "a.json"
    at = content.index(b"na")
    path.write_bytes(content[: at + 3])
    documents, bad = read(path, type="jsonl")
    assert [text for text, _ in documents] == TEXTS[: len(documents)]
    assert len(documents) >= 4
    assert list(bad.cut_files) == [str(path)]
    assert bad.counts.total() == 1


def test_layouts_are_known_by_the_first_records() -> None:
    long = b'{"text": "' + b"x" * 5000
    for head, is_whole, expected in (
        (b"", True, Layout.LINES),
        (b"  \n", False, None),
        (b'{"a": 1}\n{"a": 2}\n', False, Layout.LINES),
        (b'{"a": 1}', True, Layout.LINES),
        (b'{"a": 1}', False, None),
        (b'{"a": 1}{"a": 2}', False, Layout.VALUES),
        (b'{\n "a": 1}', False, Layout.VALUES),
        (b'{"a": [\n 1]}', False, Layout.VALUES),
        (b'{"a": "cut\n{"a": 1}\n', False, Layout.LINES),
        (b"[", False, Layout.VALUES),
        (long, False, None),
        (long, True, Layout.LINES),
        (b"plain text\n{", False, Layout.LINES),
    ):
        assert layout_of(head, is_whole) is expected, head[:30]


def test_a_large_file_of_lines_is_cut_and_other_layouts_are_not(tmp_path: Path) -> None:
    reader = reader_config({"type": "jsonl", "files": ["a"]}).build()
    for layout, make in LAYOUTS.items():
        path = tmp_path / "a.json"
        path.write_text(make(RECORDS))
        (file,) = list_files([str(path)], "files")
        is_cut = len(reader.spans(file, 100)) > 5
        assert is_cut == (layout.startswith("lines") or "RFC" in layout), layout


@pytest.mark.parametrize("indent", [None, 1])
def test_an_object_around_the_records_is_named(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"data": RECORDS}, indent=indent))
    documents, bad = read_documents(path, type="jsonl")
    (reason,) = bad
    assert (documents, bad[reason]) == ([], 1)
    assert "'data'" in reason
    path.write_text(json.dumps({"data": RECORDS}, indent=indent)[:-20])
    documents, bad = read_documents(path, type="jsonl")
    assert len(bad) == 1
    assert indent is None or bad == {reason: 1}


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-be", "utf-16-le", "utf-32", "cp1252", "shift_jis"]
)
def test_other_encodings_are_read_by_setting_or_byte_order_mark(
    tmp_path: Path, encoding: str
) -> None:
    texts = ["naïve café"] * 20 if encoding == "cp1252" else ["日本語のテキスト"] * 20
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines.encode(encoding))
    setting: dict[str, Any] = {} if encoding.startswith("utf-") else {"encoding": encoding}
    for part_bytes in (1, 1 << 30):
        documents, bad = read_documents(path, part_bytes, type="jsonl", **setting)
        assert [text for text, _ in documents] == texts
        assert bad == {}
    path.write_bytes(gzip.compress(lines.encode(encoding)))
    assert read_documents(path, type="jsonl", **setting) == (documents, {})
    path.write_text("\n\n".join(texts), encoding)
    if not encoding.endswith(("16", "32")):
        setting = {"encoding": encoding}
    for unit in ("line", "paragraph", "file"):
        documents, bad = read_documents(path, 1, type="text", document=unit, **setting)
        assert "".join(text for text, _ in documents).split() == " ".join(texts).split()
        assert bad == {}


@pytest.mark.parametrize("encoding", ["cp1252", "shift_jis", "koi8-r"])
def test_the_likely_encoding_is_named(tmp_path: Path, encoding: str) -> None:
    text = {
        "shift_jis": "こんにちは、世界。これは日本語の文章です。",
        "koi8-r": "Привет, это простой текст на русском языке.",
    }.get(encoding, "Le café était fermé, à côté de l’hôtel déjà vu.")
    path = tmp_path / "a.jsonl"
    line = json.dumps({"text": text}, ensure_ascii=False) + "\n"
    path.write_bytes(line.encode(encoding))
    for kind in ("jsonl", "text"):
        bad = BadRecords("skip")
        reader = reader_config({"type": kind, "files": [str(path)]}).build()
        (file,) = list_files((str(path),), "files")
        assert not list(reader.read(Span(file, 0, file.num_bytes), bad))
        assert bad.counts == {"not UTF-8": 1}
        assert bad.examples[0]["detail"] == f"likely {encoding}: set `encoding`"
        assert bad.guessed_encodings() == {encoding: 1}


def test_a_guess_needs_enough_to_go_by() -> None:
    assert likely_encoding("some words".encode("utf-16-be")[1:]) == "utf-16"
    assert likely_encoding("some words".encode("utf-32-le")[3:]) == "utf-32"
    assert likely_encoding("naïve café".encode()[:-1]) is None
    assert likely_encoding("naïve".encode("cp1252")) is None
    assert likely_encoding(b"") is None
    assert likely_encoding(b"CESU-8 \xed\xa0\xbd\xed\xb8\x80") is None


@pytest.mark.parametrize("part_bytes", [1 << 30, 10])
def test_a_record_after_zeros_is_read(tmp_path: Path, part_bytes: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n' + bytes(99) + b'{"text": "two"}\n{"text": "three"}\n')
    documents, bad = read(path, part_bytes, type="jsonl")
    assert documents == [("one", "a.jsonl:0"), ("two", "a.jsonl:115"), ("three", "a.jsonl:131")]
    assert bad.counts == {"not JSON": 1}
    assert bad.num_bytes.total() == 99


def test_a_number_of_any_length_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one", "id": -' + "9" * 100_000 + "}\n")
    assert read_documents(path, type="jsonl") == ([("one", "a.jsonl:0")], {})


def test_bytes_that_do_not_fit_the_encoding_cost_their_record(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("one\ntwo\n".encode("shift_jis") + b"\x81\xff\n" + b"three\n")
    documents, bad = read_documents(path, type="text", document="line", encoding="shift_jis")
    assert [text for text, _ in documents] == ["one\n", "two\n", "three\n"]
    assert bad == {"bytes that do not fit the encoding": 1}


def test_an_unknown_encoding_is_refused() -> None:
    for name in ("klingon", "idna", "base64"):
        with pytest.raises(ValidationError, match="no encoding of texts"):
            reader_config({"type": "jsonl", "files": ["a"], "encoding": name})


def test_a_record_is_lost_only_for_its_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"text": "one", "title": "\\ud83d"}\n'
        b'{"text": "two", "title": "caf\xe9"}\n'
        b'{"text": "half \\udc00", "title": "x"}\n'
        b'{"text": "caf\xe9", "title": "x"}\n'
        b'{"text": "\\ud83d\\ude00", "title": "\\ud83d"}\n'
    )
    documents, bad = read_documents(path, type="jsonl", id_field="title")
    assert documents == [("one", "\\ud83d"), ("two", "caf\\udce9"), ("\U0001f600", "\\ud83d")]
    assert bad == {"half a surrogate pair in the text": 1, "not UTF-8": 1}


def test_fields_are_found_by_dotted_path(tmp_path: Path) -> None:
    record = {"data": {"text": "inner", "a.b": {"c": 1}}, "x.y": "literal", "x": {"y": "path"}}
    assert field_of(record, "data.text") == "inner"
    assert field_of(record, "data.a.b.c") == 1
    assert field_of(record, "x.y") == "literal"
    assert field_of(record, "data.text.more") is MISSING
    assert field_of(record, "nothing") is MISSING
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(record) + "\n" + json.dumps({"data": "x"}) + "\n")
    documents, bad = read_documents(
        path, type="jsonl", text_field="data.text", id_field="data.a.b.c"
    )
    assert documents == [("inner", "1")]
    assert bad == {"the field 'data.text' is missing": 1}
