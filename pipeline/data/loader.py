"""Batches of masked rows: a pure function of the position in the row stream.

One optimizer step takes the stream positions [c, c + G). Micro-batch m of data-parallel rank r
takes `reshape(accumulation, dp, micro)[m, r]` of them, so that the rows of a step, and of each of
its micro-batches, are the same at any number of data-parallel ranks and workers. Tensor-parallel
peers ask for the same rows. A worker process makes whole optimizer steps.

Shapes: A micro-batches a step and rank, B rows a micro-batch, S tokens a row, K masked slots a row.
"""

import hashlib
import itertools
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from data_prep.dataset.manifest import Manifest, Shard
from data_prep.dataset.row_reader import RowReader
from data_prep.dataset.tokenizer import load_tokenizer
from model.objectives import MaskedRows, Objective, ObjectiveConfig, word_starts_of
from pipeline.data.config import DataConfig
from pipeline.data.order import WINDOW_ROWS, RowOrder
from pipeline.data.position import RowWindow, StepRange
from pipeline.data.shard_cache import Prefetcher, row_reader, shard_cache
from pipeline.launch.signals import ignore_stop_signals
from pipeline.run.plan import PhasePlan

MASKED_TOGETHER = 256
"""Rows that are masked in one go: their random words stay in the processor's cache."""


@dataclass(frozen=True)
class StepBatch:
    """What one data-parallel rank computes in one optimizer step."""

    tokens: torch.Tensor
    """uint16 or uint32 [A, B, S], as on disk: the rows with masks put in."""
    positions: torch.Tensor
    """int32 [A, B, K]: masked positions of each row."""
    labels: torch.Tensor
    """int32 [A, B, K]: what stood there; -100 in unused slots."""
    dropout_keys: tuple[int, ...]
    """A keys, one a micro-batch; a function of (seed, position of its first row)."""
    step: StepRange
    """The rows of the global batch, as positions in the stream of its phase."""
    phase: int
    """Number of its phase, from 0."""
    consumed_rows: int
    """The position of the run behind this batch."""


@dataclass(frozen=True)
class RowStream:
    """The masked rows at any positions of one phase's stream."""

    data: DataConfig
    manifest: Manifest
    objective: Objective
    order: RowOrder
    seed: int
    total_rows: int
    """Rows of the phase, by which mask-rate schedules tell how far training is."""
    phase: int
    """Number of the phase, from 0."""
    first_row: int
    """Rows of the phases before this one; dropout depends on the position in the whole run."""

    def reader(self) -> RowReader:
        """A reader of the training rows; each process makes its own."""
        return row_reader(self.data, self.manifest, "train")

    def shards_between(self, start_row: int, end_row: int) -> list[Shard]:
        """The shards of the rows at these positions; the order's blocks must be shards."""
        sources = self.manifest.splits["train"]
        return [
            sources[name].shards[number]
            for name, numbers in self.order.blocks_between(start_row, end_row).items()
            for number in sorted(numbers)
        ]

    def step_batch(
        self, reader: RowReader, step: StepRange, micro_rows: int, dp_rank: int, dp_size: int
    ) -> StepBatch:
        """The part of rank `dp_rank` in the global batch of `step`."""
        grid = np.arange(step.start_row, step.start_row + step.global_rows).reshape(
            -1, dp_size, micro_rows
        )  # [A, dp, B]
        masked = self.masked_rows(reader, grid[:, dp_rank].ravel())
        shape = (len(grid), micro_rows, -1)
        return StepBatch(
            tokens=torch.from_numpy(masked.tokens).view(shape),
            positions=torch.from_numpy(masked.positions).view(shape),
            labels=torch.from_numpy(masked.labels).view(shape),
            dropout_keys=tuple(
                dropout_key(self.seed, self.first_row + int(row)) for row in grid[:, dp_rank, 0]
            ),
            step=step,
            phase=self.phase,
            consumed_rows=self.first_row + step.start_row + step.global_rows,
        )

    def masked_rows(self, reader: RowReader, positions: NDArray[np.int64]) -> MaskedRows:
        """The masked rows at stream `positions` [n]."""
        address = self.order.rows_at(positions)
        rows = np.empty((len(positions), self.manifest.row_tokens), dtype=self.manifest.dtype)
        for number, size in enumerate(self.order.sources):
            mine = address.source == number
            if mine.any():
                rows[mine] = reader.read(size.name, address.row[mine])
        places, labels = [], []
        for start in range(0, len(rows), MASKED_TOGETHER):
            part = slice(start, start + MASKED_TOGETHER)
            masked = self.objective.mask_rows(
                rows[part],
                seed=self.seed,
                passes=address.passes[part],
                row_numbers=address.row[part],
                sources=address.source[part],
                progress=positions[part] / self.total_rows,
            )
            rows[part] = masked.tokens
            places.append(masked.positions.astype(np.int32))
            labels.append(masked.labels.astype(np.int32))
        return MaskedRows(rows, np.concatenate(places), np.concatenate(labels))


def dropout_key(seed: int, position: int) -> int:
    """A 63-bit key for the dropout of the micro-batch whose first row is at stream `position`."""
    digest = hashlib.blake2b(f"dropout/{seed}/{position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def build_objective(config: ObjectiveConfig, plan: PhasePlan) -> Objective:
    """The objective on the phase's vocabulary; whole words are told by its tokenizer."""
    if config.type not in ("whole_word", "span"):
        return config.build(plan.manifest.vocab_size)
    return config.build(plan.manifest.vocab_size, word_starts_of(read_vocabulary(plan)))


def read_vocabulary(plan: PhasePlan) -> list[str]:
    """The text of every token of the phase's tokenizer, by id."""
    manifest = plan.manifest
    tokenizer = load_tokenizer(plan.config.data.path / manifest.tokenizer.path)
    return [str(tokenizer.id_to_token(number)) for number in range(manifest.vocab_size)]


def _load(steps: "_Steps", data: DataConfig) -> Generator[StepBatch]:
    """The batches of `steps`, made by `data.workers` processes some steps ahead.

    The processes ignore signals that ask to stop, so close the generator to end them.
    """
    loader = DataLoader(
        steps,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=data.workers,
        prefetch_factor=data.prefetch_steps if data.workers else None,
        worker_init_fn=_start_worker,
    )
    batches = iter(loader)
    try:
        for arrays, rest in batches:
            tokens, positions, labels = map(torch.from_numpy, arrays)
            yield StepBatch(tokens, positions, labels, *rest)
    finally:
        del batches  # ends the workers, also when an error's traceback keeps this frame alive


_Packed = tuple[tuple[NDArray[np.integer], ...], tuple[Any, ...]]
"""The arrays of a `StepBatch`, and its other fields in their order."""


def _as_it_is(packed: Any) -> Any:
    """What the worker made, where torch would make tensors of arrays."""
    return packed


class _Steps(IterableDataset[_Packed]):
    """Worker w of W makes the steps w, w + W, ...; the loader takes them in turn, so in order."""

    def __init__(
        self,
        stream: RowStream,
        plan: PhasePlan,
        skipped: Sequence[RowWindow],
        dp_rank: int,
        start_row: int,
    ) -> None:
        self._stream = stream
        self._plan = plan
        self._skipped = skipped
        self._dp_rank = dp_rank
        self._start_row = start_row

    def __iter__(self) -> Iterator[_Packed]:
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        reader = self._stream.reader()
        cache = shard_cache(self._stream.data)
        prefetcher = Prefetcher(cache) if cache else None
        wanted = (s for s in self._plan.steps.from_row(self._start_row) if not self._skips(s))
        for step in itertools.islice(wanted, number, None, count):
            if prefetcher is not None:
                ahead = min(step.end_row + WINDOW_ROWS, self._stream.total_rows)
                prefetcher.ask(self._stream.shards_between(step.start_row, ahead))
            batch = self._stream.step_batch(
                reader, step, self._plan.config.batch.micro_rows, self._dp_rank, self._plan.dp_size
            )
            # As plain arrays they travel through the pipe; each tensor would cost the rank a round
            # trip to this process for a file descriptor.
            arrays = (batch.tokens.numpy(), batch.positions.numpy(), batch.labels.numpy())
            yield arrays, (batch.dropout_keys, batch.step, batch.phase, batch.consumed_rows)

    def _skips(self, step: StepRange) -> bool:
        first = self._stream.first_row
        return any(
            window.start_row < first + step.end_row and first + step.start_row < window.end_row
            for window in self._skipped
        )


def _start_worker(worker_id: int) -> None:
    ignore_stop_signals()
    torch.set_num_threads(1)
