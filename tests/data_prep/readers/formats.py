"""The same records, written in every format of records."""

import bz2
import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

FileWriter = Callable[[Path], object]
RECORDS = [{"text": f'text {n}\nof two lines, "quoted"', "key": f"k{n}"} for n in range(50)]


def write_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))


def write_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in RECORDS).encode()))


def write_zstd(path: Path) -> None:
    """Two frames, such as `cat a.zst b.zst` writes."""
    compress = zstandard.ZstdCompressor().compress
    half = [
        "".join(json.dumps(r) + "\n" for r in part).encode() for part in (RECORDS[:9], RECORDS[9:])
    ]
    path.write_bytes(compress(half[0]) + compress(half[1]))


def write_bz2(path: Path) -> None:
    path.write_bytes(bz2.compress("".join(json.dumps(r) + "\n" for r in RECORDS).encode()))


def write_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(RECORDS), path, row_group_size=7)


def write_csv(path: Path, delimiter: str = ",") -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, ["key", "text"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(RECORDS)


def write_arrow(path: Path) -> None:
    table = pa.Table.from_pylist(RECORDS)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, max_chunksize=6)


FORMATS: dict[str, tuple[str, FileWriter]] = {
    "a.jsonl": ("jsonl", write_jsonl),
    "a.jsonl.gz": ("jsonl", write_gzip),
    "a.jsonl.zst": ("jsonl", write_zstd),
    "a.jsonl.bz2": ("jsonl", write_bz2),
    "a.parquet": ("parquet", write_parquet),
    "a.csv": ("csv", write_csv),
    "a.tsv": ("tsv", lambda path: write_csv(path, "\t")),
    "a.arrow": ("hf_dataset", write_arrow),
}
"""File name to the type of its reader, and what writes the file."""
