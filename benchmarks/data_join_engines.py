"""The external join of one band's keys, by this project and by general engines.

``python -m benchmarks.data_join_engines [--documents N ...] [--memory-mb 300] [--engines FOLDER]``

Finds, for every document whose key an earlier document has, the first one that has it: (first,
itself), among made-up 64-bit keys of which a fifth are repeated. Each engine gets the same keys on
disk, one thread, and a limit of memory where it takes one, and runs in a process of its own. This
project gets them as the stage ``signatures`` writes hashes, the others as Parquet files. FOLDER is
where `pip install --target FOLDER duckdb polars "dask[dataframe]"` has put what the environment
lacks.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs import command
from data_prep.dedup.keys import KeyRuns, keys_stage
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.signatures import FileRun
from data_prep.documents.files import DocumentFile
from data_prep.engine.engine import SerialEngine
from data_prep.engine.execution import run_stage
from data_prep.engine.progress import ProgressReporter
from data_prep.engine.stage import StageResult

_FILE_DOCUMENTS = 100_000
_COPIES = 0.2
_HIGHEST_KEY = (1 << 64) - 1


def main() -> None:
    """Writes keys, joins them in all engines, prints."""
    parser = command.plain_parser(__doc__ or "")
    parser.add_argument(
        "--documents", type=int, nargs="+", default=[2_000_000, 20_000_000], help="sizes"
    )
    parser.add_argument("--memory-mb", type=int, default=300, help="limit of the engines' memory")
    parser.add_argument("--engines", type=Path, help="folder of packages that are not installed")
    parser.add_argument(
        "--only", nargs="+", choices=ENGINES, default=list(ENGINES), help="engines; all by default"
    )
    parser.add_argument(
        "--one",
        nargs=2,
        metavar=("ENGINE", "FOLDER"),
        help="join in this process; used by the benchmark itself",
    )
    arguments = parser.parse_args()
    if arguments.one:
        engine, folder = arguments.one
        run_one(engine, folder, arguments.memory_mb)
        return
    titles = ("documents", "engine", "CPU s", "us per document", "peak MB", "pairs")
    print("".join(f"{title:>18}" for title in titles))
    for documents in arguments.documents:
        with tempfile.TemporaryDirectory() as folder:
            write_keys(Path(folder), documents)
            for engine in arguments.only:
                seconds, peak, pairs = measured(engine, folder, arguments)
                cells = f"{documents:>18,}{engine:>18}{seconds:>18.1f}"
                print(f"{cells}{seconds / documents * 1e6:>18.2f}{peak:>18,.0f}{pairs:>18,}")


def write_keys(folder: Path, documents: int) -> None:
    """The same keys as hashes of a signatures stage and as Parquet files of (key, document)."""
    generate = np.random.default_rng(0)
    (folder / "signatures").mkdir()
    (folder / "parquet").mkdir()
    previous = generate.integers(0, 1 << 64, 1, dtype=np.uint64)
    for first in range(0, documents, _FILE_DOCUMENTS):
        count = min(_FILE_DOCUMENTS, documents - first)
        keys = generate.integers(0, 1 << 64, count, dtype=np.uint64)
        copies = np.flatnonzero(generate.random(count) < _COPIES)
        keys[copies] = previous[copies % len(previous)]
        previous = keys
        numbers = np.arange(first, first + count, dtype=np.uint32)
        name = f"made-{first // _FILE_DOCUMENTS:06d}"
        np.save(folder / "signatures" / f"{name}.hashes.npy", np.stack([keys, keys]))
        table = pa.table({"key": keys, "document": numbers})
        pq.write_table(table, folder / "parquet" / f"{name}.parquet", compression="none")


def measured(engine: str, folder: str, arguments: Any) -> tuple[float, float, int]:
    """(CPU seconds, peak MB, pairs) of one engine in a new process, without its imports."""
    threads = dict.fromkeys(("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "ARROW_IO_THREADS"), "1")
    paths = [str(arguments.engines)] if arguments.engines and engine != "this project" else []
    path = os.pathsep.join([*sys.path, *paths])
    call = [sys.executable, "-m", "benchmarks.data_join_engines", "--one", engine, folder]
    call += ["--memory-mb", str(arguments.memory_mb)]
    environment = {**os.environ, **threads, "PYTHONPATH": path}
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{engine} failed:\n{done.stderr}")
    seconds, peak, pairs = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak, pairs


def run_one(engine: str, folder: str, memory_mb: int) -> None:
    """Joins in this process; prints CPU seconds, peak MB and the number of pairs."""
    work = ENGINES[engine](Path(folder), memory_mb)
    start = time.process_time()
    pairs = work()
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(json.dumps([seconds, peak, pairs]))


def this_project(folder: Path, _: int) -> Callable[[], int]:
    """The stage `keys`, and ranges of its sorted runs."""
    names = sorted(path.name.split(".")[0] for path in (folder / "signatures").iterdir())
    parts, first = [], 0
    for name in names:
        hashes = np.load(folder / "signatures" / f"{name}.hashes.npy", mmap_mode="r")
        count = hashes.shape[1]
        file = DocumentFile(
            name=name, num_bytes=1, source="made", num_documents=count, first=first, content=name
        )
        parts.append(FileRun(name=name, num_bytes=1, source="made", files=[file]))
        first += count
    records = [{"documents": p.num_documents, "outputs": {p.name: {"xxh3_128": ""}}} for p in parts]
    signed = StageResult(
        folder=folder / "signatures", parts=parts, records=records, content_fingerprint="made"
    )

    def work() -> int:
        stage = keys_stage(signed, [None])
        done = run_stage(stage, folder, SerialEngine(), ProgressReporter())
        limits = DedupLimits()
        runs = KeyRuns(done.folder, signed.parts, [None], limits)
        num_pairs = 0
        with open(folder / "pairs", "wb") as target:
            for part in runs.ranges(None, 0, _HIGHEST_KEY, limits.range_keys):
                for keys, numbers in runs.recurring_in(part):
                    is_first = np.append(True, keys[1:] != keys[:-1])
                    firsts = numbers[is_first][np.cumsum(is_first) - 1]
                    np.stack([firsts[~is_first], numbers[~is_first]]).tofile(target)
                    num_pairs += int((~is_first).sum())
        return num_pairs

    return work


_FIRSTS = "SELECT key, min(document) AS first FROM keys GROUP BY key HAVING count(*) > 1"


def duckdb(folder: Path, memory_mb: int) -> Callable[[], int]:
    """DuckDB: an aggregation and a hash join that spill to disk."""
    import duckdb as engine  # type: ignore[import-not-found]

    connection = engine.connect(str(folder / "duck.db"))
    connection.execute(f"SET memory_limit = '{memory_mb}MB'")
    connection.execute("SET threads = 1")
    connection.execute(f"SET temp_directory = '{folder / 'spilled'}'")
    connection.execute(f"CREATE VIEW keys AS SELECT * FROM '{folder}/parquet/*.parquet'")

    def work() -> int:
        joined = f"SELECT first, document FROM keys JOIN ({_FIRSTS}) USING (key)"
        target = folder / "duckdb.parquet"
        connection.execute(
            f"COPY ({joined} WHERE document != first) TO '{target}' (COMPRESSION uncompressed)"
        )
        return int(pq.read_metadata(target).num_rows)

    return work


def polars(folder: Path, _: int) -> Callable[[], int]:
    """Polars' streaming engine: the same aggregation and join. It takes no limit of memory."""
    import polars as engine  # type: ignore[import-not-found]

    def work() -> int:
        keys = engine.scan_parquet(folder / "parquet" / "*.parquet")
        aggregated = keys.group_by("key").agg(first=engine.col("document").min(), n=engine.len())
        firsts = aggregated.filter(engine.col("n") > 1).select("key", "first")
        pairs = keys.join(firsts, on="key").filter(engine.col("document") != engine.col("first"))
        target = folder / "polars.parquet"
        pairs.select("first", "document").sink_parquet(target, compression="uncompressed")
        return int(pq.read_metadata(target).num_rows)

    return work


def dask(folder: Path, _: int) -> Callable[[], int]:
    """Dask's shuffle on disk, then each partition (the documents of 10 files) in pandas."""
    import dask.dataframe as engine

    def joined(frame: Any) -> Any:
        firsts = frame.groupby("key")["document"].transform("min")
        pairs = frame.assign(first=firsts)
        return pairs[pairs["document"] != firsts][["first", "document"]]

    def work() -> int:
        keys = engine.read_parquet(folder / "parquet", split_row_groups=False)
        num_partitions = -(-keys.npartitions // 10)
        shuffled = keys.shuffle("key", npartitions=num_partitions, shuffle_method="disk")
        pairs = shuffled.map_partitions(joined)
        pairs.to_parquet(folder / "dask", compression=None, compute_kwargs={"scheduler": "sync"})
        return sum(pq.read_metadata(path).num_rows for path in (folder / "dask").glob("*.parquet"))

    return work


ENGINES: dict[str, Callable[[Path, int], Callable[[], int]]] = {
    "this project": this_project,
    "duckdb": duckdb,
    "polars": polars,
    "dask": dask,
}
"""By name: what makes the join of the keys in a folder, with its imports done."""


if __name__ == "__main__":
    command.run(main)
