"""Parquet and Arrow: columns of every type that holds text."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from configs.load import UserError
from data_prep.first_records import first_of_files
from data_prep.readers.arrow_values import text_values, values_of
from data_prep.readers.document import BadRecords
from data_prep.readers.files import list_files
from data_prep.readers.reader import NoFieldError, spans_of_files
from tests.data_prep.readers.reading import read_documents as read
from tests.data_prep.readers.reading import reader_config

TEXTS = [f"text {n} é, long enough to be outside a view" for n in range(40)]


class Marked(pa.ExtensionType):  # type: ignore[misc]
    """A type of a user's own, not registered."""

    def __init__(self, storage: pa.DataType = pa.string()) -> None:  # noqa: B008
        super().__init__(storage, "test.marked")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, _: bytes) -> "Marked":
        return cls(storage)


COLUMNS: dict[str, pa.Array] = {
    "string": pa.array(TEXTS),
    "large_string": pa.array(TEXTS, pa.large_string()),
    "string_view": pa.array(TEXTS, pa.string_view()),
    "binary": pa.array([t.encode() for t in TEXTS]),
    "large_binary": pa.array([t.encode() for t in TEXTS], pa.large_binary()),
    "binary_view": pa.array([t.encode() for t in TEXTS], pa.binary_view()),
    "dictionary": pa.array(TEXTS).dictionary_encode(),
    "dictionary of views": pa.DictionaryArray.from_arrays(
        np.arange(40, dtype=np.int8), pa.array(TEXTS, pa.string_view())
    ),
    "extension": pa.ExtensionArray.from_storage(Marked(), pa.array(TEXTS)),
}
LISTS = [pa.list_, pa.large_list, pa.list_view, pa.large_list_view, lambda t: pa.list_(t, 2)]


def write_parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, row_group_size=7)


def write_stream(table: pa.Table, path: Path, compression: str | None = None) -> None:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(str(path), table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=7)


def write_file(table: pa.Table, path: Path, compression: str | None = None) -> None:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(str(path), table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=7)


WRITERS: dict[str, tuple[str, Callable[[pa.Table, Path], None]]] = {
    "parquet": ("parquet", write_parquet),
    "stream": ("hf_dataset", write_stream),
    "stream, zstd": ("hf_dataset", lambda t, path: write_stream(t, path, "zstd")),
    "file": ("hf_dataset", write_file),
    "file, lz4": ("hf_dataset", lambda t, path: write_file(t, path, "lz4")),
    "feather": ("hf_dataset", lambda t, path: feather.write_feather(t, path, chunksize=7)),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("column", COLUMNS)
def test_every_type_of_text_is_read(tmp_path: Path, writer: str, column: str) -> None:
    kind, write = WRITERS[writer]
    path = tmp_path / "a"
    if (writer, column) == ("parquet", "dictionary of views"):
        pytest.skip("pyarrow does not write it")
    write(pa.table({"n": range(40), "text": COLUMNS[column]}), path)
    for part_bytes in (1 << 30, 1):
        documents, bad = read(path, part_bytes, type=kind)
        assert [text for text, _ in documents] == TEXTS
        assert [own_id for _, own_id in documents] == [f"a:{n}" for n in range(40)]
        assert not bad


@pytest.mark.parametrize("name", ["parquet", "stream"])
@pytest.mark.parametrize("of_lists", LISTS)
def test_lists_and_paths_are_read(
    tmp_path: Path, name: str, of_lists: Callable[[pa.DataType], pa.DataType]
) -> None:
    kind, write = WRITERS[name]
    path, pairs = tmp_path / "a", [[text, f"second {n}"] for n, text in enumerate(TEXTS)]
    nested = pa.array([{"pages": pair, "other": 1} for pair in pairs])
    table = {"doc": nested, "doc.title": pa.array(TEXTS), "n": pa.array(range(40))}
    is_written = name == "stream" or of_lists not in LISTS[2:4]  # Parquet has no views of lists
    if is_written:
        table["pages"] = pa.array(pairs, of_lists(pa.string()))
    table["turns"] = pa.array([[{"who": 1, "text": text} for text in pair] for pair in pairs])
    write(pa.table(table), path)
    joined = ["\n".join(pair) for pair in pairs]
    expected = {"doc.pages": joined, "doc.pages.1": [p[1] for p in pairs], "doc.title": TEXTS}
    expected |= {"turns.text": joined, "turns.0.text": TEXTS}
    expected |= {"pages": joined, "pages.0": TEXTS} if is_written else {}
    for field, texts in expected.items():
        documents, bad = read(path, 1, type=kind, text_field=field)
        assert [text for text, _ in documents] == texts, field
        assert not bad


def test_old_feather_files_are_read(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        feather.write_feather(pa.table({"text": TEXTS}), str(tmp_path / "a"), version=1)
    documents, bad = read(tmp_path / "a", type="hf_dataset")
    assert [text for text, _ in documents] == TEXTS
    assert not bad


def not_utf_8(count: int) -> pa.Array:
    """An array of strings of which the second is not UTF-8, as other tools write it."""
    offsets = pa.py_buffer(np.arange(0, 2 * count + 1, 2, dtype=np.int32))
    content = pa.py_buffer(b"ab" + b"\xed\xa0" + b"cd" * (count - 2))
    return pa.Array.from_buffers(pa.string(), count, [None, offsets, content])


@pytest.mark.parametrize("name", ["parquet", "stream", "file"])
def test_a_record_is_lost_for_its_text_only(tmp_path: Path, name: str) -> None:
    kind, write = WRITERS[name]
    table = pa.table({"text": TEXTS, "key": not_utf_8(40), "s": [{"a": 1}] * 40})
    write(table, tmp_path / "a")
    documents, bad = read(tmp_path / "a", type=kind, id_field="key", metadata_fields=["key"])
    assert [text for text, _ in documents] == TEXTS
    assert [own_id for _, own_id in documents][:3] == ["ab", "\\xed\\xa0", "cd"]
    assert not bad
    documents, bad = read(tmp_path / "a", type=kind, text_field="key")
    assert len(documents) == 39
    assert bad == {"not UTF-8": 1}


def metadata_of(path: Path, **config: Any) -> list[Any]:
    """The metadata of all documents."""
    checked = reader_config({"files": [str(path)], **config})
    (file,) = list_files(checked.files, "files")
    reader, bad = checked.build(), BadRecords("stop")
    return [d.metadata for span in reader.spans(file, 1 << 30) for d in reader.read(span, bad)]


def test_metadata_are_read(tmp_path: Path) -> None:
    times = pa.array([1], pa.timestamp("ns"))
    table = pa.table({"text": ["a"], "m": [{"x": "y", "n": [1]}], "t": times, "b": [b"\xff"]})
    write_parquet(table, tmp_path / "a")
    fields = ["m.x", "m", "t", "b", "none"]
    (found,) = metadata_of(tmp_path / "a", type="parquet", metadata_fields=fields)
    assert list(found) == ["m.x", "m", "t", "b"]
    assert (found["m.x"], found["m"], found["b"]) == ("y", {"x": "y", "n": [1]}, "\\xff")


def bad_records(path: Path, **config: Any) -> tuple[list[str], BadRecords]:
    """The texts of some files as a source reads them, and what was counted."""
    checked = reader_config({"files": [str(path)], **config})
    reader, bad = checked.build(), BadRecords("skip")
    files = list_files(checked.files, "files")
    spans = [span for spans in spans_of_files(reader, files, 1) for span in spans]
    return [d.text for span in spans for d in reader.read(span, bad)], bad


@pytest.mark.parametrize("name", ["parquet", "stream", "file"])
@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"text": pa.nulls(9)}, "missing"),
        ({"body": pa.array(["x"] * 9)}, "missing"),
        ({"text": pa.array([1.5] * 9)}, "no text"),
        ({"text": pa.array([None] * 9, pa.string())}, "missing"),
    ],
)
def test_a_shard_without_texts_is_counted_and_refused_if_all_are(
    tmp_path: Path, name: str, other: dict[str, pa.Array], reason: str
) -> None:
    kind, write = WRITERS[name]
    write(pa.table(other), tmp_path / "0")
    write(pa.table({"text": TEXTS}), tmp_path / "1")
    texts, bad = bad_records(tmp_path / "*", type=kind)
    assert texts == TEXTS
    assert dict(bad.counts) == {f"the field 'text' is {reason}": 9}
    is_null_string = other.get("text", pa.nulls(1)).type == pa.string()
    if (
        name == "parquet" or not next(iter(other.values())).null_count
    ):  # Arrow's nulls take no bytes
        assert (bad.num_bytes.total() > 0) != is_null_string
    config = reader_config({"files": [str(tmp_path / "*")], "type": kind})
    assert first_of_files(config, "sources.a.reader", 1 << 20).problems == []
    if not is_null_string:
        config = reader_config({"files": [str(tmp_path / "0")], "type": kind})
        (problem,) = first_of_files(config, "sources.a.reader", 1 << 20).problems
        assert "'text'" in problem
        with pytest.raises(NoFieldError, match="'text'"):
            bad_records(tmp_path / "0", type=kind)


@pytest.mark.parametrize("writer", WRITERS)
def test_empty_tables_are_read(tmp_path: Path, writer: str) -> None:
    kind, write = WRITERS[writer]
    write(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a")
    assert read(tmp_path / "a", type=kind) == ([], {})


@pytest.mark.parametrize("name", ["parquet", "stream"])
def test_two_columns_of_one_name_are_an_error_only_if_read(tmp_path: Path, name: str) -> None:
    kind, write = WRITERS[name]
    columns = [pa.array(TEXTS), pa.array(range(40)), pa.array(range(40))]
    write(pa.Table.from_arrays(columns, names=["text", "n", "n"]), tmp_path / "a")
    assert len(read(tmp_path / "a", type=kind)[0]) == 40
    with pytest.raises(UserError, match="2 columns named 'n'"):
        read(tmp_path / "a", type=kind, id_field="n")


def test_a_missing_column_is_named_with_those_there(tmp_path: Path) -> None:
    write_parquet(pa.table({"doc": [{"Text": "a"}], "n": [1]}), tmp_path / "a")
    with pytest.raises(UserError, match=r"no column 'doc\.text' \(did you mean 'doc\.Text'\?\)"):
        read(tmp_path / "a", type="parquet", text_field="doc.text")


def test_values_are_those_of_arrow() -> None:
    """Slices too, of every kind of array that other tools write."""
    strings = pa.array(["a", None, "b", "b", "c", "d"])
    arrays = [
        *(strings, strings.dictionary_encode(), pc.run_end_encode(strings)),
        *(pa.array([["a"], None, [], ["b", None], ["c"]], of(pa.string())) for of in LISTS[:4]),
        pa.array([["a", "b"], None, ["c", "d"]], pa.list_(pa.string(), 2)),
        pa.array([{"x": "a", "y": [1]}, None, {"x": None, "y": None}, {"x": "b", "y": []}]),
        pa.array([1, None, 3]),
        pa.nulls(4),
        pa.array([[("k", "v")], None, []], pa.map_(pa.string(), pa.string())),
    ]
    for array in arrays:
        for part in (array, array.slice(1), array.slice(1, 2), array.slice(0, 0)):
            assert list(text_values(part)) == part.to_pylist(), part.type


def test_damaged_arrays_are_errors() -> None:
    offsets = pa.py_buffer(np.array([0, 900, 3], np.int32))
    lists = pa.Array.from_buffers(
        pa.list_(pa.string()), 2, [None, offsets], children=[pa.array(["a", "b", "c"])]
    )
    dictionary = pa.DictionaryArray.from_arrays(
        pa.array([0, 7], pa.int8()), pa.array(["a"]), safe=False
    )
    for array in (lists, dictionary):
        with pytest.raises(pa.ArrowInvalid):
            list(values_of(array))
