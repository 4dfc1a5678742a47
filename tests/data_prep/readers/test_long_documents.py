"""Lines and documents that are too long are counted once, and never held whole."""

import gzip
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.readers.document import BadRecords
from data_prep.readers.files import Span, list_files
from data_prep.readers.lines import LineFiles
from data_prep.readers.table import TableReader, TableReaderConfig
from data_prep.readers.text import TextReader, TextReaderConfig


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 150), max_size=12),
    st.lists(st.integers(1, 1500), max_size=6),
    st.sampled_from(["txt", "txt.gz"]),
)
def test_lines_too_long_to_be_held_are_counted_once_wherever_a_file_is_cut(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], cuts: list[int], suffix: str
) -> None:
    """Such as a JSON array of many gigabytes, given as JSON lines."""
    path = tmp_path_factory.mktemp("long") / f"a.{suffix}"
    lines = [f"{number:03d}".ljust(length, "x") for number, length in enumerate(lengths)]
    content = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if suffix == "txt.gz" else content)
    config = TextReaderConfig(type="text", files=(str(path),), document="line")
    reader = TextReader(config, LineFiles(chunk_bytes=16, skipped_bytes=7))
    (file,) = list_files([str(path)], "files")
    results = []
    for edges in ([], sorted({min(cut, file.num_bytes) // 16 * 16 for cut in cuts})):
        bad = BadRecords("skip", max_document_bytes=10)  # and lines of up to 80 bytes are read
        places = [0, *edges, file.num_bytes]
        spans = [Span(file, *pair) for pair in pairwise(places) if pair[0] < pair[1]]
        documents = [d for span in spans for d in reader.read(span, bad)]
        results.append((documents, bad.counts, bad.num_bytes))
    assert results[0] == results[1]
    documents, counts, num_bytes = results[0]
    assert num_bytes.total() == sum(len(line) + 1 for line in lines if len(line) >= 10)
    assert [d.text.strip() for d in documents] == [ln for ln in lines if 0 < len(ln.strip()) < 10]
    assert counts.total() == sum(len(line) >= 10 for line in lines)


@pytest.mark.parametrize("unit", ["file", "section", "paragraph"])
def test_a_text_without_an_end_is_not_held(
    tmp_path: Path, unit: Literal["file", "section", "paragraph"]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one line\n" * 1000 + "\nand another\n")
    config = TextReaderConfig(type="text", files=(str(path),), document=unit, section_bytes=1 << 20)
    (file,) = list_files([str(path)], "files")
    bad = BadRecords("skip", max_document_bytes=500)
    documents = list(TextReader(config).read(Span(file, 0, file.num_bytes), bad))
    long_bytes = len("one line\n") * 1000 if unit == "paragraph" else file.num_bytes
    assert bad.counts == {"longer than max_document_mb": 1}
    assert long_bytes <= bad.num_bytes.total() <= long_bytes + 1  # and the blank line
    assert [document.text for document in documents] == ["and another\n"] * (unit == "paragraph")


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("last", ["x" * 9999, "x" * 9999 + '"\n4,four\n'])
def test_the_whole_size_of_a_long_field_is_counted(tmp_path: Path, suffix: str, last: str) -> None:
    path = tmp_path / f"a.csv{suffix}"
    content = f'id,text\n1,one\n2,"{last}'.encode()
    path.write_bytes(gzip.compress(content) if suffix else content)
    config = TableReaderConfig(type="csv", files=(str(path),))
    reader = TableReader(config, LineFiles(chunk_bytes=50))
    (file,) = list_files([str(path)], "files")
    bad = BadRecords("skip", max_document_bytes=100)
    documents = list(reader.read(Span(file, 0, file.num_bytes), bad))
    assert [document.text for document in documents] == ["one", "four"][: 1 + ("four" in last)]
    assert bad.counts == {"longer than max_document_mb": 1}
    assert bad.num_bytes.total() == len('2,"') + len(last.removesuffix("4,four\n"))
