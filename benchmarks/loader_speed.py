"""Throughput of the loader: tokens per CPU second of one worker, and the cost of seeking.

``python -m benchmarks.loader_speed``: writes 65,536 synthetic rows of 512 tokens to a temporary
folder, then makes optimizer steps of 8,192 rows as one loader worker does: order, reading, masks,
tensors. The cost of seeking is the time to the first step of a new process at row 0 and at row 10^9
of the stream, measured alternately.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from configs import command
from data_prep.dataset.manifest import Manifest
from model.objectives import MaskedLanguageModelConfig
from pipeline.data import order
from pipeline.data.config import DataConfig
from pipeline.data.loader import RowStream
from pipeline.data.order import SourceSize, build_order, train_sources
from pipeline.data.position import StepRange
from tests.synthetic_rows import FIRST_ID, Rows, SyntheticSource, write_data_set

ROW_TOKENS, VOCAB_SIZE, BLOCK_ROWS = 512, 50_265, 256
GLOBAL_ROWS, MICRO_ROWS = 8192, 8
FAR = 10**9
PIECE_TOKENS = 128


def write_rows(folder: Path, num_rows: int) -> Manifest:
    """A data set of random ids in two sources, with a <s> at every `PIECE_TOKENS` tokens."""
    generator = np.random.default_rng(0)

    def blocks(count: int) -> Iterator[Rows]:
        for start in range(0, count, BLOCK_ROWS):
            shape = (min(BLOCK_ROWS, count - start), ROW_TOKENS)
            rows = generator.integers(FIRST_ID, VOCAB_SIZE - 1, size=shape, dtype=np.uint16)
            rows[:, ::PIECE_TOKENS] = 0
            yield rows

    return write_data_set(
        folder,
        (
            SyntheticSource("train", "a", blocks(num_rows * 3 // 4)),
            SyntheticSource("train", "b", blocks(num_rows // 4)),
        ),
        row_tokens=ROW_TOKENS,
        vocab_size=VOCAB_SIZE,
        block_rows=BLOCK_ROWS,
    )


def stream_of(folder: Path, manifest: Manifest) -> RowStream:
    """The stream from which one loader worker of a run on these rows reads."""
    return RowStream(
        data=DataConfig(path=folder),
        manifest=manifest,
        objective=MaskedLanguageModelConfig(type="mlm").build(VOCAB_SIZE),
        order=build_order(train_sources(manifest), [(0, {"a": 0.6, "b": 0.4})], seed=1),
        seed=1,
        total_rows=2 * FAR,
        phase=0,
        first_row=0,
    )


def main() -> None:
    """Prints million tokens per CPU second, and the times of seeking."""
    parser = command.plain_parser((__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=65_536, help="rows of the data set")
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps of 8,192 rows")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        manifest = write_rows(Path(name), arguments.rows)
        stream = stream_of(Path(name), manifest)
        reader = stream.reader()
        parts: dict[str, Callable[[npt.NDArray[np.int64]], object]] = {
            "order": lambda rows: stream.order.rows_at(rows),
            "order, reading, masks": lambda rows: stream.masked_rows(reader, rows),
            "whole steps": lambda rows: stream.step_batch(
                reader, StepRange(int(rows[0]), GLOBAL_ROWS), MICRO_ROWS, 0, 1
            ),
        }
        for label, work in parts.items():
            rates = []
            for step in range(arguments.steps + 1):
                rows = np.arange(step * GLOBAL_ROWS, (step + 1) * GLOBAL_ROWS)
                started = time.process_time()
                work(rows)
                rates.append(GLOBAL_ROWS * ROW_TOKENS / (time.process_time() - started) / 1e6)
            rates = rates[1:]  # the first step opens shards and permutes a window
            print(
                f"{label:<24}{statistics.median(rates):8.1f} million tokens per CPU second "
                f"(of {len(rates)} steps: {min(rates):.1f} to {max(rates):.1f})"
            )
        seek(stream)


def seek(stream: RowStream) -> None:
    """Prints the time to the first step at row 0 and far into the stream, with nothing cached."""
    times: dict[int, list[float]] = {0: [], FAR // GLOBAL_ROWS * GLOBAL_ROWS: []}
    for _ in range(9):
        for position, seconds in times.items():
            order._pass_order.cache_clear()
            reader = stream.reader()
            started = time.process_time()
            stream.step_batch(reader, StepRange(position, GLOBAL_ROWS), MICRO_ROWS, 0, 1)
            seconds.append(time.process_time() - started)
    (near, far) = (statistics.median(seconds) for seconds in times.values())
    print(
        f"first step at row 0 {near * 1e3:.0f} ms, at row 10^9 {far * 1e3:.0f} ms: {far / near:.3f}"
    )
    huge = (SourceSize("a", 3 * FAR, BLOCK_ROWS), SourceSize("b", FAR, BLOCK_ROWS))
    wide = build_order(huge, [(0, None)], seed=1)
    positions = np.arange(GLOBAL_ROWS)
    seconds_at = []
    for start in (0, FAR):
        order._pass_order.cache_clear()
        started = time.process_time()
        wide.rows_at(start + positions)
        seconds_at.append(time.process_time() - started)
    print(
        f"order of a source of 3 x 10^9 rows, first step: at row 0 {seconds_at[0]:.2f} s, "
        f"at row 10^9 {seconds_at[1]:.2f} s"
    )


if __name__ == "__main__":
    command.run(main)
