"""Parquet and Arrow files that are damaged or cut: the rest is read, lost bytes are counted."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.readers.document import BadRecords
from data_prep.readers.files import list_files
from tests.data_prep.readers.reading import reader_config
from tests.data_prep.readers.test_columns import TEXTS, WRITERS, bad_records, write_file


def test_intact_row_groups_around_damage_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    pq.write_table(pa.table({"text": TEXTS}), path, row_group_size=10, compression="zstd")
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    at, size = column.dictionary_page_offset, column.total_compressed_size
    content[at + 20 : at + size] = b"\x55" * (size - 20)
    path.write_bytes(content)
    texts, bad = bad_records(path, type="parquet")
    assert texts == TEXTS[:10] + TEXTS[20:]
    assert dict(bad.counts) == {"damaged or truncated Parquet": 1}
    assert bad.not_read_bytes.total() == size
    path.write_bytes(content[:-20])
    texts, bad = bad_records(path, type="parquet")
    assert (texts, bad.cut_files) == ([], {str(path): "damaged or truncated Parquet"})
    assert bad.not_read_bytes.total() == len(content) - 20


@pytest.mark.parametrize("name", ["stream", "file"])
def test_a_cut_arrow_file_is_read_up_to_its_end(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a"
    WRITERS[name][1](pa.table({"text": TEXTS}), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    texts, bad = bad_records(path, type="hf_dataset")
    assert texts
    assert texts == TEXTS[: len(texts)]
    assert list(bad.cut_files) == [str(path)]
    assert 0 < bad.not_read_bytes.total() < len(content) / 2
    if name == "file":  # without its footer only
        path.write_bytes(content[:-9])
        assert bad_records(path, type="hf_dataset")[0] == TEXTS


@pytest.mark.parametrize("part_bytes", [1 << 30, 100])
def test_a_second_stream_in_a_file_is_counted(tmp_path: Path, part_bytes: int) -> None:
    sink = pa.BufferOutputStream()
    table = pa.table({"text": ["one", "two"]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    stream = bytes(sink.getvalue().to_pybytes())
    path = tmp_path / "a.arrow"
    path.write_bytes(stream * 2)
    config = reader_config({"type": "hf_dataset", "files": [str(path)]})
    (file,), bad, reader = list_files(config.files, "files"), BadRecords("skip"), config.build()
    documents = [d for span in reader.spans(file, part_bytes) for d in reader.read(span, bad)]
    assert [document.text for document in documents] == ["one", "two"]
    assert bad.not_read_bytes.total() == len(stream)


def test_a_damaged_batch_costs_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_file(pa.table({"text": TEXTS}), path, "zstd")
    content = bytearray(path.read_bytes())
    magic = [at for at in range(len(content)) if content[at : at + 4] == b"\x28\xb5\x2f\xfd"]
    content[magic[3] : magic[3] + 4] = b"\0\0\0\0"
    path.write_bytes(content)
    texts, bad = bad_records(path, type="hf_dataset")
    assert len(texts) == 33
    assert len(bad.counts) == 1
    assert bad.not_read_bytes.total() > 0
