"""CSV and TSV: bad rows are counted, quoting is parsed, and files are cut anywhere."""

import csv
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.load import UserError
from data_prep.readers.document import BadRecords
from data_prep.readers.files import list_files
from data_prep.readers.reader import spans_of_files
from tests.data_prep.readers.reading import WHOLE_BYTES, reader_config
from tests.data_prep.readers.reading import read_documents as read

simple = st.text(alphabet='ab ,"é', max_size=12)


def test_bad_table_rows_are_counted_by_reason(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'text,n\ngood,1\nshort\n"b\xe9d",2\n\n"a""b\nc",3\n')
    documents, bad = read(tmp_path / "a.csv", type="csv")
    assert [text for text, _ in documents] == ["good", 'a"b\nc']
    assert bad == {"not 2 fields": 1, "not UTF-8": 1}


def test_a_field_that_is_too_long_is_one_bad_record(tmp_path: Path) -> None:
    quoted = '"' + 'a ""line"", and\n' * 20 + 'one more"'
    (tmp_path / "a.csv").write_text(
        f"n,text\n1,good\n2,{quoted}\n3,also good\n4,{'x' * 300}\n5,good too\n6,{quoted[:-1]}"
    )
    documents, bad = read(tmp_path / "a.csv", type="csv", max_document_bytes=200)
    assert documents == [("good", "a.csv:2"), ("also good", "a.csv:24"), ("good too", "a.csv:26")]
    assert bad == {"longer than max_document_mb": 3}


@settings(max_examples=100, deadline=None)
@given(st.lists(simple, max_size=25), st.integers(1, 200), st.sampled_from(["\n", "\r\n"]))
def test_a_table_of_lines_is_the_same_wherever_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], cut: int, end: str
) -> None:
    path = tmp_path_factory.mktemp("table") / "a.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator=end)
        writer.writerows([["n", "text"], *([n, text] for n, text in enumerate(texts))])
    config: dict[str, Any] = {"type": "csv", "quoted_newlines": False}
    documents, bad = read(path, WHOLE_BYTES, **config)
    assert [text for text, _ in documents] == texts
    assert not bad
    assert read(path, cut, **config) == (documents, {})
    assert read(path, type="csv")[0] == read(path, 1, type="csv", quoted_newlines=True)[0]


def test_a_newline_inside_quotes_is_damage_where_every_line_is_a_record(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,n\ngood,1\n"two\nlines",2\nlast,3\n')
    documents, bad = read(tmp_path / "a.csv", 5, type="csv", quoted_newlines=False)
    assert documents == [("good", "a.csv:7"), ("last", "a.csv:28")]
    assert bad == {"damaged quoting": 2}
    (tmp_path / "a.csv").write_text('"text\n')
    with pytest.raises(UserError, match="its first record is damaged"):
        read(tmp_path / "a.csv", type="csv", quoted_newlines=False)


def test_settings_of_the_dialect(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('n;text\n1;"a;b"\n')
    assert read(path, type="csv", delimiter=";")[0] == [("a;b", "a.csv:2")]
    path.write_text("n,text\n1,'it''s, so'\n")
    assert read(path, type="csv", quote="'")[0] == [("it's, so", "a.csv:2")]
    path.write_text('n,text\n1,"a \\"quoted\\" word, and \\\\ \nmore"\n')
    texts, bad = read(path, type="csv", escape="backslash")
    assert (texts, bad) == ([('a "quoted" word, and \\ \nmore', "a.csv:2")], {})
    path.write_bytes('n,text\n1,"caf\xe9"\n'.encode("utf-16"))
    assert read(path, type="csv")[0] == [("caf\xe9", "a.csv:2")]
    path.write_bytes('n,text\n1,"caf\xe9"\n'.encode("cp1252"))
    assert read(path, type="csv", encoding="cp1252")[0] == [("caf\xe9", "a.csv:2")]
    path.write_bytes(b'\xef\xbb\xbf"text"\n"a"\n')
    for lines in (True, False):
        assert read(path, type="csv", quoted_newlines=lines)[0][0][0] == "a"


@pytest.mark.parametrize("lines", [True, False])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_without_a_header(tmp_path: Path, end: str, lines: bool) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(end.join(["1\ta", "2\tb", "3\tc\tc", "4\td", ""]).encode())
    for config in (
        {"header": "none", "text_field": "2", "id_field": "1"},
        {"header": ["key", "text"], "id_field": "key"},
    ):
        documents, bad = read(path, 4, type="tsv", quoted_newlines=lines, **config)
        assert documents == [("a", "1"), ("b", "2"), ("d", "4")]
        assert bad == {"not 2 fields": 1}


@pytest.mark.parametrize("lines", [{}, {"quoted_newlines": False}])
@pytest.mark.parametrize("first", ["sep=;\r\n", '\ufeff"sep=;"\n'])
def test_a_line_that_states_the_delimiter_is_no_header(
    tmp_path: Path, first: str, lines: dict[str, Any]
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{first}id;text\n1;one\n2;two\n", newline="")
    for part_bytes in (1 << 30, 5):
        documents, bad = read(path, part_bytes, type="csv", delimiter=";", **lines)
        assert [text for text, _ in documents] == ["one", "two"]
        assert not bad
    if not lines:
        assert [own_id for _, own_id in documents] == ["a.csv:3", "a.csv:4"]
    with pytest.raises(UserError, match='set `delimiter: ";"`'):
        read(path, type="csv", **lines)


def test_a_missing_column_is_named_with_its_likely_cause(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for header, message in {
        "n;text": r"looks separated by ';': set `delimiter",
        "n,Text": r"did you mean 'Text'",
        "n,text,text": r"2 columns named 'text'",
    }.items():
        path.write_text(f"{header}\n")
        with pytest.raises(UserError, match=message):
            read(path, type="csv")
    path.write_text("n,n,text\n1,2,a\n")
    assert read(path, type="csv")[0] == [("a", "a.csv:2")]


def test_a_file_without_the_column_is_counted_where_others_have_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("n,text\n1,a\n")
    (tmp_path / "b.csv").write_text("n,body\n1,b\n2,c\n")
    checked = reader_config({"files": [str(tmp_path / "*")], "type": "csv"})
    reader, bad = checked.build(), BadRecords("skip")
    spans = spans_of_files(reader, list_files(checked.files, "files"), WHOLE_BYTES)
    texts = [d.text for found in spans for span in found for d in reader.read(span, bad)]
    assert texts == ["a"]
    assert dict(bad.num_bytes) == {"the field 'text' is missing": len("1,b\n2,c\n")}


def test_other_columns_cost_no_record(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"n,text,k\n1\0,a,\xff\n2,b\0,k\n3,c\xff,k\n")
    documents, bad = read(tmp_path / "a.csv", type="csv", id_field="k")
    assert documents == [("a", "\\xff")]
    assert bad == {"NUL byte": 1, "not UTF-8": 1}
