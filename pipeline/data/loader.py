"""Batches of masked rows: a pure function of the position in the row stream.

One optimizer step takes the stream positions [c, c + G), G being the global batch size in rows
(packed sequences). Micro-batch m of data-parallel rank r takes `reshape(accumulation, dp, micro)[m,
r]` of them, so that the rows of a step, and of each of its micro-batches, are the same at any
number of data-parallel ranks and workers. Tensor-parallel peers get the same rows. A worker process
makes whole optimizer steps.

Shapes: A micro-batches a step and rank (gradient accumulation), B rows a micro-batch, S tokens a
row, K masked slots a row.
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

from configs.load import UserError
from data_prep.dataset.manifest import Manifest, Shard
from data_prep.dataset.row_reader import RowReader
from model.objectives import (
    MaskedRows,
    Objective,
    ObjectiveConfig,
    RowsToMask,
    SpecialIds,
)
from pipeline.data.config import DataConfig
from pipeline.data.order import RowOrder
from pipeline.data.position import PhaseSteps, RowWindow, StepRange
from pipeline.data.shard_cache import Prefetcher, row_reader, shard_cache
from pipeline.data.step_batch import StepBatch as StepBatch
from pipeline.data.words import read_word_starts
from pipeline.launch.signals import ignore_stop_signals

MASKED_TOGETHER = 256
"""Rows that are masked at once: their random words stay in the processor's cache."""


@dataclass(frozen=True)
class RowStream:
    """The masked rows at any positions of the stream of one phase."""

    data: DataConfig
    manifest: Manifest
    objective: Objective
    order: RowOrder
    seed: int
    total_rows: int
    """Rows of the phase, from which mask-rate schedules compute the progress of training."""
    phase: int
    """Number of the phase, from 0."""
    first_row: int
    """Rows of the phases before this one; dropout depends on the position in the whole run."""

    def reader(self) -> RowReader:
        """A new reader of the training rows; every process needs its own."""
        return row_reader(self.data, self.manifest, "train")

    def shards_between(self, start_row: int, end_row: int) -> list[Shard]:
        """The shards of the rows at positions [start_row, end_row); needs shuffle_unit: shard."""
        sources = self.manifest.splits["train"]
        return [
            sources[name].shards[number]
            for name, numbers in self.order.blocks_between(start_row, end_row).items()
            for number in sorted(numbers)
        ]

    def step_batch(
        self, reader: RowReader, step: StepRange, micro_rows: int, dp_rank: int, dp_size: int
    ) -> StepBatch:
        """What rank `dp_rank` computes of the global batch of `step`."""
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
            is_causal=self.objective.config.IS_CAUSAL,
            sample_keys=_tensor(masked.sample_keys, shape[:2]),
            head_weights=self.objective.config.head_weights,
        )

    def masked_rows(self, reader: RowReader, positions: NDArray[np.int64]) -> MaskedRows:
        """The masked rows at stream `positions` [n]."""
        address = self.order.rows_at(positions)
        rows = np.empty((len(positions), self.manifest.row_tokens), dtype=self.manifest.dtype)
        for number, size in enumerate(self.order.sources):
            mine = address.source == number
            if mine.any():
                rows[mine] = reader.read(size.name, address.row[mine])
        places, labels, keys = [], [], []
        for start in range(0, len(rows), MASKED_TOGETHER):
            part = slice(start, start + MASKED_TOGETHER)
            masked = self.objective.mask_rows(
                RowsToMask(
                    rows[part],
                    seed=self.seed,
                    passes=address.passes[part],
                    row_numbers=address.row[part],
                    sources=address.source[part],
                    progress=positions[part] / self.total_rows,
                )
            )
            rows[part] = masked.tokens
            places.append(masked.positions.astype(np.int32))
            labels.append(masked.labels.astype(np.int32))
            keys += [] if masked.sample_keys is None else [masked.sample_keys]
        sample_keys = np.concatenate(keys) if keys else None
        return MaskedRows(rows, np.concatenate(places), np.concatenate(labels), sample_keys)


def _tensor(words: NDArray[np.int64] | None, shape: tuple[int, int]) -> torch.Tensor | None:
    return None if words is None else torch.from_numpy(words).view(shape)


def dropout_key(seed: int, position: int) -> int:
    """A 63-bit key for the dropout of the micro-batch whose first row is at stream `position`."""
    digest = hashlib.blake2b(f"dropout/{seed}/{position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def build_objective(config: ObjectiveConfig, data: DataConfig, manifest: Manifest) -> Objective:
    """The objective on the vocabulary of a data set, whose tokenizer decides what a word is."""
    word_starts = None
    if config.reads_words:
        word_starts = read_word_starts(data, manifest)
    return config.build(special_ids(manifest), word_starts)


def special_ids(manifest: Manifest) -> SpecialIds:
    """The special ids of a data set, as objectives know them."""
    special = manifest.special_tokens
    return SpecialIds(
        begin=special.bos,
        pad=special.pad,
        end=special.eos,
        unknown=special.unk,
        mask=special.mask,
        vocab_size=manifest.vocab_size,
        others=special.others or (),
    )


@dataclass(frozen=True)
class BatchLayout:
    """How a global batch is divided: A x dp_size x micro_rows rows."""

    micro_rows: int
    """Rows of one forward and backward pass on one rank (the micro-batch size)."""
    dp_rank: int
    """Data-parallel rank that the batches are for."""
    dp_size: int
    """Data-parallel ranks."""


def load_batches(
    stream: RowStream,
    steps: PhaseSteps,
    layout: BatchLayout,
    *,
    start_row: int = 0,
    skipped: Sequence[RowWindow] = (),
) -> Generator[StepBatch]:
    """The batches of `steps` from position `start_row` of the stream, in order.

    Steps with a row in a `skipped` window of the run are left out. ``data.workers`` processes make
    the batches some steps ahead; they ignore stop signals, so close the generator to end them.

    Raises UserError for rows that cannot be read, also in a worker, without the worker's traceback.
    """
    data, weights = stream.data, stream.objective.config.head_weights
    loader = DataLoader(
        _Steps(stream, steps, layout, start_row, tuple(skipped)),
        batch_size=None,
        collate_fn=_unchanged,
        num_workers=data.workers,
        prefetch_factor=data.prefetch_steps if data.workers else None,
        worker_init_fn=_start_worker,
    )
    batches = iter(loader)
    try:
        for packed in batches:
            if isinstance(packed, Exception):
                raise packed
            arrays, rest = packed
            tokens, positions, labels, *keys = map(torch.from_numpy, arrays)
            more: dict[str, Any] = {"sample_keys": keys[0]} if keys else {}
            yield StepBatch(tokens, positions, labels, **rest, **more, head_weights=weights)
    finally:
        workers = list(getattr(batches, "_workers", ()))
        del batches  # ends the workers, also when the traceback of an error keeps this frame alive
        for worker in workers:
            # One that waits for a lock which a killed worker held never ends by itself, and ignores
            # the signal that torch sends it; this process would wait for it at its own end.
            worker.kill()
            worker.join()


_Packed = tuple[tuple[NDArray[np.integer], ...], dict[str, Any]]
"""The arrays of a `StepBatch`, keys last, and its other fields by name, without the weights."""


def _unchanged(packed: Any) -> Any:
    """The worker's arrays; torch's own function would turn them into tensors."""
    return packed


class _Steps(IterableDataset[_Packed | Exception]):
    """Worker w of W makes the steps w, w + W, ...; the loader takes them in turn, so in order.

    An error of the user or of the file system is the last item of its worker: torch would raise it
    with the worker's traceback as its message.
    """

    def __init__(
        self,
        stream: RowStream,
        steps: PhaseSteps,
        layout: BatchLayout,
        start_row: int,
        skipped: tuple[RowWindow, ...],
    ) -> None:
        self._stream = stream
        self._steps = steps
        self._layout = layout
        self._start_row = start_row
        self._skipped = skipped

    def __iter__(self) -> Iterator[_Packed | Exception]:
        try:
            yield from self._batches()
        except (UserError, OSError) as error:
            yield error.with_traceback(None)

    def _batches(self) -> Iterator[_Packed]:
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        stream, layout = self._stream, self._layout
        reader = stream.reader()
        cache = shard_cache(stream.data)
        prefetcher = Prefetcher(cache) if cache else None
        wanted = (step for step in self._steps.from_row(self._start_row) if not self._skips(step))
        for step in itertools.islice(wanted, number, None, count):
            if prefetcher is not None:
                ahead = min(step.end_row + stream.order.window_rows, stream.total_rows)
                prefetcher.ask(stream.shards_between(step.start_row, ahead))
            batch = stream.step_batch(
                reader, step, layout.micro_rows, layout.dp_rank, layout.dp_size
            )
            # As plain arrays they travel through the pipe; each tensor would cost the rank a round
            # trip to this process for a file descriptor.
            tensors = (batch.tokens, batch.positions, batch.labels, batch.sample_keys)
            arrays = tuple(tensor.numpy() for tensor in tensors if tensor is not None)
            names = ("dropout_keys", "step", "phase", "consumed_rows", "is_causal")
            yield arrays, {name: getattr(batch, name) for name in names}

    def _skips(self, step: StepRange) -> bool:
        first = self._stream.first_row
        return any(
            window.start_row < first + step.end_row and first + step.start_row < window.end_row
            for window in self._skipped
        )


def _start_worker(worker_id: int) -> None:
    ignore_stop_signals()
    torch.set_num_threads(1)
