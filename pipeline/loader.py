"""Batches of masked rows: a pure function of the position in the row stream.

One optimizer step takes the stream positions [c, c + G). Micro-batch m of data-parallel rank r
takes `reshape(accumulation, dp, micro)[m, r]` of them, so that the rows of a step, and of each of
its micro-batches, are the same at any number of data-parallel ranks and workers. Tensor-parallel
peers ask for the same rows. A worker process makes whole optimizer steps.

Shapes: A micro-batches a step and rank, B rows a micro-batch, S tokens a row, K masked slots a row.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from data_prep.shards import Manifest, RowReader
from model.objectives import MaskedRows, Objective
from pipeline.config import DataConfig
from pipeline.order import RowOrder, build_order, train_sources
from pipeline.plan import BatchPlan
from pipeline.signals import ignore_stop_signals


@dataclass(frozen=True)
class StepBatch:
    """What one data-parallel rank computes in one optimizer step."""

    tokens: torch.Tensor
    """int64 [A, B, S]: the rows with masks put in."""
    positions: torch.Tensor
    """int64 [A, B, K]: masked positions of each row."""
    labels: torch.Tensor
    """int64 [A, B, K]: what stood there; -100 in unused slots."""
    dropout_keys: tuple[int, ...]
    """A keys, one a micro-batch; a function of (seed, position of its first row)."""
    start_row: int
    """Stream position of the first row of the global batch."""


@dataclass(frozen=True)
class RowStream:
    """The masked rows at any positions of the stream."""

    folder: Path
    manifest: Manifest
    objective: Objective
    order: RowOrder
    seed: int

    def reader(self) -> RowReader:
        """A reader of the training rows; each process makes its own."""
        return RowReader(self.folder, self.manifest, "train")

    def step_batch(
        self, reader: RowReader, start_row: int, plan: BatchPlan, dp_rank: int
    ) -> StepBatch:
        """The part of rank `dp_rank` in the global batch that begins at `start_row`."""
        grid = np.arange(start_row, start_row + plan.global_rows).reshape(
            plan.accumulation, plan.dp_size, plan.micro_rows
        )
        positions = grid[:, dp_rank].ravel()  # [A * B]
        masked = self.masked_rows(reader, positions)
        shape = (plan.accumulation, plan.micro_rows, -1)
        return StepBatch(
            tokens=torch.from_numpy(masked.tokens).view(shape),
            positions=torch.from_numpy(masked.positions).view(shape),
            labels=torch.from_numpy(masked.labels).view(shape),
            dropout_keys=tuple(dropout_key(self.seed, int(first)) for first in grid[:, dp_rank, 0]),
            start_row=start_row,
        )

    def masked_rows(self, reader: RowReader, positions: NDArray[np.int64]) -> MaskedRows:
        """The masked rows at stream `positions` [n]."""
        address = self.order.rows_at(positions)
        rows = np.empty((len(positions), self.manifest.row_tokens), dtype=self.manifest.dtype)
        source_numbers = np.empty_like(positions)
        all_names = sorted(self.manifest.splits["train"])
        for number, size in enumerate(self.order.sources):
            mine = address.source == number
            if mine.any():
                rows[mine] = reader.read(size.name, address.row[mine])
                source_numbers[mine] = all_names.index(size.name)
        return self.objective.mask_rows(
            rows,
            seed=self.seed,
            passes=address.passes,
            row_numbers=address.row,
            sources=source_numbers,
        )


def dropout_key(seed: int, position: int) -> int:
    """A 63-bit key for the dropout of the micro-batch whose first row is at stream `position`."""
    raw = np.random.Philox(key=[seed, 0xD20B], counter=[position, 0, 0, 0]).random_raw()
    return int(raw) >> 1


def build_stream(
    data: DataConfig, manifest: Manifest, objective: Objective, seed: int
) -> RowStream:
    """The stream of training rows that `data` describes."""
    order = build_order(train_sources(manifest), data.weights, seed)
    return RowStream(data.path, manifest, objective, order, seed)


def step_batches(
    stream: RowStream, data: DataConfig, plan: BatchPlan, dp_rank: int, start_row: int, end_row: int
) -> Generator[StepBatch]:
    """The batches of the steps from `start_row` on, while whole ones fit before `end_row`.

    Made by `data.workers` processes, `data.prefetch_steps` steps ahead each. They ignore signals
    that ask to stop, so close the generator (`contextlib.closing`) to end them.
    """
    loader = DataLoader(
        _Steps(stream, plan, dp_rank, start_row, end_row),
        batch_size=None,
        num_workers=data.workers,
        prefetch_factor=data.prefetch_steps if data.workers else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker,
    )
    batches = iter(loader)
    try:
        yield from batches
    finally:
        del batches  # ends the workers, also when an error's traceback keeps this frame alive


class _Steps(IterableDataset[StepBatch]):
    """Worker w of W makes the steps w, w + W, ...; the loader takes them in turn, so in order."""

    def __init__(
        self, stream: RowStream, plan: BatchPlan, dp_rank: int, start_row: int, end_row: int
    ) -> None:
        self._stream = stream
        self._plan = plan
        self._dp_rank = dp_rank
        self._starts = range(start_row, end_row - plan.global_rows + 1, plan.global_rows)

    def __iter__(self) -> Iterator[StepBatch]:
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        reader = self._stream.reader()
        for start_row in self._starts[number::count]:
            yield self._stream.step_batch(reader, start_row, self._plan, self._dp_rank)


def _start_worker(worker_id: int) -> None:
    ignore_stop_signals()
    torch.set_num_threads(1)
