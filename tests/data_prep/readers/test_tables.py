"""CSV and TSV: bad rows are counted, quoting is parsed, and files are cut anywhere."""

import csv
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.load import UserError
from tests.data_prep.readers.reading import WHOLE_BYTES
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
    with pytest.raises(UserError, match="its header line is no record"):
        read(tmp_path / "a.csv", type="csv", quoted_newlines=False)
