"""Reads the same files from a disk and from an object store: speed, processor time, requests.

``python -m benchmarks.object_store [--mb 64] [--part-mb 16] [--latency-ms 20]``

The store is a server of the S3 protocol on loopback in a process of its own, which takes the given
time more for each request. Prints a Markdown table: MB/s of stored bytes, processor seconds of the
reading process, requests, and bytes fetched per byte that is needed. The server shares the cores.
"""

import gzip
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from configs import command
from data_prep.readers.document import BadRecords
from data_prep.readers.files import list_files
from tests.data_prep.readers.reading import reader_config
from tests.s3_server import S3Server

_TEXT_CHARACTERS = 4000


class Reading(NamedTuple):
    """What it took to read a file."""

    seconds: float
    cpu_seconds: float
    num_documents: int


def main() -> None:
    """Prints the table."""
    parser = command.plain_parser(__doc__ or "")
    parser.add_argument("--mb", type=int, default=64, help="size of each file as text, MB")
    parser.add_argument("--part-mb", type=int, default=16, help="size of the parts, MB")
    parser.add_argument("--latency-ms", type=float, default=20, help="of each request")
    arguments = parser.parse_args()
    print("| file | from | MB/s | CPU s | requests | bytes fetched / needed |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, S3Server() as server:
        bucket = server.new_bucket()
        for path, kind, needed in _files(Path(folder), arguments.mb << 20):
            part_bytes = arguments.part_mb << 20
            local = _read(str(path), kind, part_bytes)
            url = f"{bucket}/{path.name}"
            server.files.pipe_file(url, path.read_bytes())
            server.reset()
            server.answer_from_memory()
            server.files.cat_file(url, start=0, end=1)  # so that it has the file
            server.set_latency(arguments.latency_ms / 1000)
            remote = _read(url, kind, part_bytes)
            requests = server.requests(path=path.name)[1:]
            assert remote.num_documents == local.num_documents
            fetched = sum(request.num_bytes for request in requests) / needed
            size = path.stat().st_size / 1e6
            print(f"| {path.name} | disk | {_shown(size, local)} | | |")
            print(f"| | store | {_shown(size, remote)} | {len(requests)} | {fetched:.2f} |")


def _shown(size_mb: float, reading: Reading) -> str:
    return f"{size_mb / reading.seconds:.1f} | {reading.cpu_seconds:.2f}"


def _files(folder: Path, num_bytes: int) -> Iterator[tuple[Path, str, int]]:
    """(path, kind, stored bytes that a reader needs) of files with the same texts."""
    generate = random.Random(0)
    words = [generate.randbytes(generate.randint(1, 5)).hex() for _ in range(20_000)]
    texts = []
    for _ in range(num_bytes // _TEXT_CHARACTERS):
        text = " ".join(generate.choices(words, k=_TEXT_CHARACTERS // 6))
        texts.append(text[:_TEXT_CHARACTERS])
    lines = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
    for name, content in (
        ("a.jsonl", lines),
        ("a.jsonl.gz", gzip.compress(lines, 6)),
        ("a.jsonl.zst", zstandard.ZstdCompressor(level=3).compress(lines)),
    ):
        path = folder / name
        path.write_bytes(content)
        yield path, "jsonl", len(content)
    path = folder / "a.parquet"
    table = pa.table({"text": texts, "unused": texts[::-1]})
    pq.write_table(table, path, row_group_size=max(len(texts) // 16, 1), compression="zstd")
    yield path, "parquet", path.stat().st_size // 2


def _read(path: str, kind: str, part_bytes: int) -> Reading:
    start, cpu = time.perf_counter(), os.times()
    reader = reader_config({"type": kind, "files": [path]}).build()
    num_documents = 0
    for file in list_files([path], "files"):
        for span in reader.spans(file, part_bytes):
            num_documents += sum(1 for _ in reader.read(span, BadRecords("stop")))
    end = os.times()
    cpu_seconds = end.user + end.system - cpu.user - cpu.system
    return Reading(time.perf_counter() - start, cpu_seconds, num_documents)


if __name__ == "__main__":
    command.run(main)
