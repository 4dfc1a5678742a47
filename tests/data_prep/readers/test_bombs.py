"""Files of a few kilobytes that hold gigabytes: counted and named, and read in little memory."""

import bz2
import json
import lzma
import os
import resource
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_prep.readers.document import BadRecords
from data_prep.readers.files import list_files
from data_prep.readers.parquet_pages import pages_of
from tests.data_prep.readers.reading import reader_config

MAX_DOCUMENT_BYTES = 4_000_000
CONTENT_BYTES = 1 << 30
"""What a bomb expands to."""
MEMORY_MB = 450
"""Resident memory that reading may take, besides what the process had."""


def peak_mb_of(read: Callable[[], Any]) -> tuple[float, Any]:
    """(growth of resident memory, MB, result as JSON) of a call, in a forked process with a limit
    on its memory, which ends it rather than the machine."""
    reading, writing = os.pipe()
    libraries_mb = _status_mb("RssFile")
    pid = os.fork()
    if pid == 0:
        try:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            limit = used + (4 << 30)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
            # A forked process maps the pages of libraries as it comes to use them.
            before = _status_mb("VmRSS") + max(libraries_mb - _status_mb("RssFile"), 0)
            result = read()
            os.write(writing, json.dumps([_status_mb("VmHWM") - before, result]).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    assert text, "the process ended before it had read the file"
    peak, result = json.loads(text)
    return peak, result


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1e3


def read_bomb(path: Path, **config: Any) -> dict[str, Any]:
    """Number of documents, bad records by reason, and their bytes, read in bounded memory."""

    def read() -> dict[str, Any]:
        checked = reader_config({"files": [str(path)], **config})
        bad = BadRecords("skip", MAX_DOCUMENT_BYTES)
        (file,) = list_files(checked.files, "files")
        reader = checked.build()
        longest = num_documents = 0
        for span in reader.spans(file, 1 << 30):
            for document in reader.read(span, bad):
                if not bad.is_too_long(document.text, file.path, document.offset):
                    num_documents += 1
                longest = max(longest, len(document.text))
        files = [example["file"] for example in bad.examples]
        return {"documents": num_documents, "bad": bad.counts, "bytes": bad.num_bytes, "in": files}

    peak, result = peak_mb_of(read)
    assert peak < MEMORY_MB, f"{peak:.0f} MB"
    assert set(result["in"]) == {str(path)}
    found: dict[str, Any] = result
    return found


def bzip2_bomb(head: bytes, tail: bytes) -> bytes:
    """A few kilobytes: blocks of zeros repeat, so that a stream can be made from two."""
    zeros = bz2.compress(b"\0" * (46 << 20))
    return bz2.compress(head) + zeros * (CONTENT_BYTES // (46 << 20)) + bz2.compress(tail)


def gzip_bomb(head: bytes, tail: bytes) -> bytes:
    """A quarter of the others, as gzip compresses only a thousand times."""
    member = zlib.compressobj(wbits=31)
    zeros = bytes(1 << 20)
    content = [member.compress(head)]
    content += [member.compress(zeros) for _ in range(CONTENT_BYTES >> 22)]
    return b"".join([*content, member.compress(tail), member.flush()])


def zstandard_bomb(head: bytes, tail: bytes) -> bytes:
    """One frame, in which 4 bytes (a block of one repeated byte) hold 128 KiB."""
    header = b"\x28\xb5\x2f\xfd" + b"\x00" + b"\x38"  # no size, a window of 128 KiB
    run = ((1 << 17) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"

    def raw(content: bytes, is_last: bool) -> bytes:
        return (len(content) << 3 | is_last).to_bytes(3, "little") + content

    return header + raw(head, False) + run * (CONTENT_BYTES >> 17) + raw(tail, True)


def xz_bomb(head: bytes, tail: bytes) -> bytes:
    """One stream of blocks of zeros. Many small streams, whose content starts and ends a line."""
    zeros = lzma.compress(bytes(32 << 20), preset=0)
    return lzma.compress(head) + zeros * (CONTENT_BYTES >> 25) + lzma.compress(tail)


def lz4_bomb(head: bytes, tail: bytes) -> bytes:
    """A quarter, as lz4 compresses only 250 times."""
    zeros = lz4.frame.compress(bytes(16 << 20))
    frames = zeros * (CONTENT_BYTES >> 26)
    content: bytes = lz4.frame.compress(head) + frames + lz4.frame.compress(tail)
    return content


def zstandard_long_bomb(head: bytes, tail: bytes) -> bytes:
    """A frame with a window of 64 MiB, half of what `zstd` reads without an option."""
    header = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([16 << 3])
    return header + zstandard_bomb(head, tail)[6:]


BOMBS = {
    ".bz2": bzip2_bomb,
    ".gz": gzip_bomb,
    ".zst": zstandard_bomb,
    ".xz": xz_bomb,
    ".lz4": lz4_bomb,
    ".long.zst": zstandard_long_bomb,
}
LINES = {
    "jsonl": ('{"text": "one"}\n', '\n{"text": "two"}\n', "longer than max_document_mb"),
    "csv": ("text,more\none,1\n", "\ntwo,2\n", "longer than max_document_mb"),
    "text": ("one\n", "\ntwo\n", "longer than max_document_mb"),
}


def test_a_bomb_is_small() -> None:
    assert len(bzip2_bomb(b"", b"")) < 3_000
    assert len(zstandard_bomb(b"", b"")) < 40_000
    frame = zstandard.ZstdDecompressor().decompressobj()
    assert frame.decompress(zstandard_bomb(b"head", b"tail")[:200]).startswith(b"head\0")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("kind", "suffix"),
    [*(("jsonl", suffix) for suffix in BOMBS), ("csv", ".bz2"), ("csv", ".gz"), ("text", ".zst")],
)
def test_a_line_without_end_in_a_compressed_file_costs_that_line(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    head, tail, reason = LINES[kind]
    path = tmp_path / f"a.{kind}{suffix}"
    path.write_bytes(BOMBS[suffix](head.encode(), tail.encode()))
    options = {"document": "line"} if kind == "text" else {}
    found = read_bomb(path, type=kind, **options)
    assert found["documents"] == 2
    assert found["bad"] == {reason: 1}
    assert found["bytes"][reason] >= 8 * MAX_DOCUMENT_BYTES


@pytest.mark.timeout(120)
@pytest.mark.parametrize("suffix", [".bz2", ".zst", ".gz"])
def test_a_wiki_page_without_end_costs_that_page(tmp_path: Path, suffix: str) -> None:
    page = "<page><title>{}</title><ns>0</ns><text>words</text></page>"
    head = f"<mediawiki>{page.format('one')}<page><title>bomb</title><ns>0</ns><text>"
    tail = f"</text></page>{page.format('two')}</mediawiki>"
    path = tmp_path / f"a.xml{suffix}"
    path.write_bytes(BOMBS[suffix](head.encode(), tail.encode()))
    found = read_bomb(path, type="mediawiki")
    assert (found["documents"], found["bad"]) == (2, {"longer than max_document_mb": 1})


@pytest.mark.timeout(120)
@pytest.mark.parametrize("suffix", [".bz2", ".zst", ".gz"])
@pytest.mark.parametrize("place", ["content", "header"])
def test_a_web_archive_with_a_bomb_is_read_in_little_memory(
    tmp_path: Path, suffix: str, place: str
) -> None:
    def record(text: bytes, num_bytes: int) -> bytes:
        return (
            b"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Record-ID: <urn:uuid:1>\r\n"
            b"WARC-Date: 2020-01-01T00:00:00Z\r\nContent-Type: text/plain\r\n"
            b"Content-Length: %d\r\n\r\n" % num_bytes
        ) + text

    whole = record(b"one text\r\n\r\n", 8)
    num_bytes = CONTENT_BYTES if suffix != ".gz" else CONTENT_BYTES >> 2
    bomb = record(b"", num_bytes) if place == "content" else b"WARC/1.0\r\nX: "
    path = tmp_path / f"a.warc{suffix}"
    path.write_bytes(BOMBS[suffix](whole + bomb, b"\r\n\r\n" + whole))
    found = read_bomb(path, type="warc")
    if place == "content":  # after other damage these files are not read on
        assert found["documents"] >= 1
    assert sum(found["bad"].values()) >= 1


def test_parquet_whose_pages_or_values_expand_is_counted(tmp_path: Path) -> None:
    zeros = "\x01" * 100_000_000
    table = pa.table({"text": pa.array(["one", zeros, "two"])})
    path = tmp_path / "page.parquet"
    pq.write_table(table, path, compression="zstd", use_dictionary=False, row_group_size=1)
    assert path.stat().st_size < 200_000
    found = read_bomb(path, type="parquet")
    assert found["documents"] == 2
    assert found["bad"] == {"row group with a page larger than max_document_mb times eight": 1}

    # One value of 20 MB that a dictionary repeats a hundred times.
    repeated = pa.DictionaryArray.from_arrays(np.zeros(100, np.int32), ["\x01" * 20_000_000])
    path = tmp_path / "dictionary.parquet"
    pq.write_table(
        pa.table({"text": repeated}),
        path,
        compression="zstd",
        store_schema=False,
        dictionary_pagesize_limit=1 << 30,
    )
    assert path.stat().st_size < 200_000
    found = read_bomb(path, type="parquet")
    assert found["bad"] == {"longer than max_document_mb": 100}


def test_a_compressed_arrow_batch_that_expands_is_counted(tmp_path: Path) -> None:
    table = pa.table({"text": pa.array(["\x01" * 600_000_000])})
    path = tmp_path / "a.arrow"
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(str(path), table.schema, options=options) as writer:
        writer.write_table(table)
    found = read_bomb(path, type="hf_dataset")
    assert (found["documents"], found["bad"]) == (0, {"compressed batch too large": 1})
    small = tmp_path / "small.arrow"
    with pa.ipc.new_stream(str(small), table.schema, options=options) as writer:
        writer.write_table(pa.table({"text": pa.array(["one", "two"] * 50)}))
    checked = reader_config({"type": "hf_dataset", "files": [str(small)]})
    (file,) = list_files(checked.files, "files")
    (span,) = checked.build().spans(file, 1 << 30)
    assert len(list(checked.build().read(span, BadRecords("stop")))) == 100


def test_lines_that_hold_millions_of_values_are_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n[' + b"{}," * 5_000_000 + b"0]\n")
    found = read_bomb(path, type="jsonl")
    assert (found["documents"], found["bad"]) == (1, {"too many values or elements": 1})
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,more\none,1\n" + b"," * 5_000_000 + b"\ntwo,2\n")
    found = read_bomb(path, type="csv")
    assert (found["documents"], found["bad"]) == (2, {"longer than max_document_mb": 1})
    path = tmp_path / "b.csv"
    field = b'"' + (b"x" * 199 + b"\n") * 19_000 + b'"'
    path.write_bytes(b"text,more\none,1\n" + b",".join([field] * 20) + b"\ntwo,2\n")
    found = read_bomb(path, type="csv")
    assert (found["documents"], found["bad"]) == (2, {"longer than max_document_mb": 1})


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_page_headers_are_read_to_the_end_of_every_column(tmp_path: Path, version: str) -> None:
    path = tmp_path / "a.parquet"
    texts = [f"text {number} " * (number % 50) for number in range(20_000)]
    table = pa.table({"text": texts, "number": range(20_000), "list": [[1, 2]] * 20_000})
    pq.write_table(
        table, path, data_page_version=version, row_group_size=7_000, data_page_size=1 << 14
    )
    parquet = pq.ParquetFile(path)
    with open(path, "rb") as stream:
        for group in range(parquet.num_row_groups):
            for number in range(3):
                column = parquet.metadata.row_group(group).column(number)
                pages = list(pages_of(stream, column))
                assert len(pages) > 1
                assert sum(page.num_values for page in pages) == column.num_values
                stored = sum(page.stored for page in pages)
                assert stored < column.total_compressed_size < stored + 4000 * len(pages)
