"""The micro-batches of fine-tuning: a pure function of the config and of the optimizer step.

A micro-batch holds rows of one task (or packed rows for masked language modelling), padded to its
longest. The micro-batches of a step are numbered over all tasks, in the config's order; number i
goes to data-parallel rank i modulo their number. So rows, padding and dropout of a step are the
same at any number of ranks. Every micro-batch passes through every head, with nothing to learn in
those of other tasks: all ranks then reduce all gradients in the same order.

B rows, S tokens in a row, K masked slots of a row.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.objectives import MaskedRows
from pipeline.data.loader import RowStream, build_objective, dropout_key
from pipeline.data.order import build_order, permutation, train_sources
from pipeline.finetuning.config import MLM
from pipeline.finetuning.examples import Example
from pipeline.finetuning.plan import FinetunePlan
from pipeline.finetuning.tasks.task import UNUSED

WIDTH_MULTIPLE = 8
"""Rows are padded to a multiple of this: accelerators like it, sequence parallelism needs it."""


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass takes."""

    tokens: Tensor
    """int64 [B, S]."""
    targets: dict[str, Tensor]
    """For every task head."""
    masked: tuple[Tensor, Tensor] | None
    """Positions and labels, int64 [B, K]; None where there is no masked language modelling."""
    dropout_key: int
    """A function of (seed, position of its first row in the run)."""


@dataclass(frozen=True)
class FinetuneStep:
    """The part of one data-parallel rank in an optimizer step."""

    micro_batches: tuple[MicroBatch, ...]
    num_used: dict[str, int]
    """By head, what its loss is divided by: counted over all ranks."""


class FinetuneBatches:
    """Makes the micro-batches of one data-parallel rank."""

    def __init__(self, plan: FinetunePlan, dp_rank: int) -> None:
        self._plan = plan
        self._dp_rank = dp_rank
        self._stream = _mlm_stream(plan)
        self._reader = self._stream.reader() if self._stream else None

    @property
    def per_step(self) -> int:
        """Micro-batches of this rank in every step."""
        return -(-sum(1 for _ in self._chunks(0)) // self._plan.dp_size)

    def step(self, number: int) -> FinetuneStep:
        """The micro-batches of step `number`, counting from 0."""
        masked = self._masked_rows(number)
        num_used = dict.fromkeys(self._plan.heads, 0)
        mine = []
        for index, (head, part, first_row) in enumerate(self._chunks(number)):
            if head == MLM:
                assert masked is not None
                num_used[MLM] += int((masked.labels[part] >= 0).sum())
            else:
                task = self._plan.config.tasks[head]
                examples = self._examples(head, number)[part]
                num_used[head] += task.num_used(task.targets(examples, self._width(examples)))
            if index % self._plan.dp_size == self._dp_rank:
                key = dropout_key(self._plan.config.seed, first_row)
                if head == MLM:
                    assert masked is not None
                    mine.append(self._mlm_batch(masked, part, key))
                else:
                    mine.append(self.task_batch(head, self._examples(head, number)[part], key))
        while len(mine) < self.per_step:  # fewer than ranks: something to compute, not to learn
            name = next(iter(self._plan.config.tasks))
            examples = self._examples(name, number)[: self._micro_examples(name)]
            mine.append(self.task_batch(name, examples, key=0, is_used=False))
        return FinetuneStep(tuple(mine), num_used)

    def task_batch(
        self, name: str, examples: Sequence[Example], key: int, is_used: bool = True
    ) -> MicroBatch:
        """The micro-batch of some examples of a task."""
        rows = [row for example in examples for row in example.rows]
        width = self._width(examples)
        tokens = np.full(
            (len(rows), width), self._plan.model.pad_token_id, dtype=np.int64
        )  # [B, S]
        for number, row in enumerate(rows):
            tokens[number, : len(row)] = row
        task = self._plan.config.tasks[name]
        targets = {name: task.targets(examples, width)} if is_used else {}
        masked = None
        if self._plan.mlm is not None:
            nothing = torch.zeros((len(rows), 1), dtype=torch.int64)
            masked = (nothing, nothing + UNUSED)
        return MicroBatch(
            torch.from_numpy(tokens), self._all_targets(targets, *tokens.shape), masked, key
        )

    def dev_batches(self, name: str) -> Iterator[tuple[list[int], MicroBatch, bool]]:
        """(numbers of examples, micro-batch, whether it counts) for this rank to evaluate."""
        examples = self._plan.dev[name].examples
        size = self._micro_examples(name)
        parts = [range(i, min(i + size, len(examples))) for i in range(0, len(examples), size)]
        for index in range(-(-len(parts) // self._plan.dp_size)):
            mine = index * self._plan.dp_size + self._dp_rank
            numbers = parts[mine] if mine < len(parts) else parts[0]
            batch = self.task_batch(name, [examples[n] for n in numbers], key=0)
            yield list(numbers), batch, mine < len(parts)

    def _chunks(self, number: int) -> Iterator[tuple[str, slice, int]]:
        """(head, which of its examples, position of the first row) of a step's micro-batches."""
        config = self._plan.config
        row = number * config.rows_per_step
        for name, task in config.tasks.items():
            size = self._micro_examples(name)
            for first in range(0, task.examples_per_step, size):
                last = min(first + size, task.examples_per_step)
                yield name, slice(first, last), row + first * task.rows_per_example
            row += task.examples_per_step * task.rows_per_example
        if config.mlm is not None:
            for first in range(0, config.mlm.rows_per_step, config.micro_rows):
                last = min(first + config.micro_rows, config.mlm.rows_per_step)
                yield MLM, slice(first, last), row + first

    def _examples(self, name: str, number: int) -> list[Example]:
        """The examples of a task in a step: every pass over the file in an order of its own."""
        examples = self._plan.train[name].examples
        size = self._plan.config.tasks[name].examples_per_step
        places = range(number * size, (number + 1) * size)
        return [
            examples[
                _order(len(examples), self._plan.config.seed, name, place // len(examples))[
                    place % len(examples)
                ]
            ]
            for place in places
        ]

    def _masked_rows(self, number: int) -> MaskedRows | None:
        """The masked rows of all ranks in a step."""
        if self._stream is None or self._plan.config.mlm is None:
            return None
        assert self._reader is not None
        size = self._plan.config.mlm.rows_per_step
        return self._stream.masked_rows(self._reader, np.arange(number * size, (number + 1) * size))

    def _mlm_batch(self, masked: MaskedRows, part: slice, key: int) -> MicroBatch:
        tokens = torch.from_numpy(masked.tokens[part]).long()
        positions = torch.from_numpy(masked.positions[part]).long()
        labels = torch.from_numpy(masked.labels[part]).long()
        targets = self._all_targets({}, *tokens.shape)
        return MicroBatch(tokens, targets, (positions, labels), key)

    def _all_targets(
        self, targets: Mapping[str, NDArray[np.generic]], num_rows: int, width: int
    ) -> dict[str, Tensor]:
        return {
            name: torch.from_numpy(targets.get(name, task.no_targets(num_rows, width)))
            for name, task in self._plan.config.tasks.items()
        }

    def _micro_examples(self, name: str) -> int:
        config = self._plan.config
        return config.micro_rows // config.tasks[name].rows_per_example

    def _width(self, examples: Sequence[Example]) -> int:
        longest = max(len(row) for example in examples for row in example.rows)
        width = -(-longest // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
        return max(longest, min(width, self._plan.model.max_row_tokens))


@lru_cache(maxsize=64)
def _order(length: int, seed: int, name: str, pass_number: int) -> NDArray[np.int64]:
    return permutation(length, seed, "finetune", name, pass_number)


def _mlm_stream(plan: FinetunePlan) -> RowStream | None:
    if plan.mlm is None or plan.config.mlm is None:
        return None
    data, seed = plan.mlm.config.data, plan.config.seed
    return RowStream(
        data=data,
        manifest=plan.mlm.manifest,
        objective=build_objective(plan.config.mlm.objective, plan.mlm),
        order=build_order(
            train_sources(plan.mlm.manifest, data.shuffle_unit), [(0, data.weights)], seed
        ),
        seed=seed,
        total_rows=plan.mlm.steps.total_rows,
        phase=0,
        first_row=0,
    )
