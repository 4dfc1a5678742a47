"""The micro-batches of fine-tuning: a pure function of the config and of the optimizer step.

A micro-batch holds rows of one task (or packed rows for masked language modelling), padded to the
longest. The micro-batches of a step are numbered over all tasks, in the config's order; number i
is for data-parallel rank i modulo the number of these ranks. So rows, padding and dropout of a step
are the same at any number of ranks. Every micro-batch passes through every head, without labels for
those of other tasks: all ranks then reduce all gradients in the same order.

B rows, S tokens in a row, K label slots of a row.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.adversarial import Adversary
from model.config import MLM_HEAD
from model.objectives import MaskedRows
from model.task_heads import LossAndCounts
from model.transfer import to_device
from pipeline.data.loader import RowStream, build_objective, dropout_key
from pipeline.data.order import build_order, train_sources
from pipeline.data.position import RowWindow
from pipeline.finetuning.examples import Example
from pipeline.finetuning.padding import padded, padded_width, segments_of
from pipeline.finetuning.plan import FinetunePlan
from pipeline.finetuning.tasks.task import UNUSED


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass takes."""

    tokens: Tensor
    """int64 [B, S]."""
    targets: dict[str, Tensor]
    """For every task head."""
    masked: tuple[Tensor, Tensor] | None
    """Positions and labels, int64 [B, K]; None where there is no masked language modelling."""
    dropout_key: int | None
    """A function of (seed, position of its first row in the run); None: no dropout."""
    segments: Tensor | None = None
    """Segment ids, int64 [B, S]; None: all 0."""
    first_row: int = 0
    """The position of its first row in the run."""
    adversary: Adversary | None = None
    """A regulariser; None: none."""

    def forward(
        self, model: Any, device: torch.device, perturbation: Tensor | None = None
    ) -> dict[str, LossAndCounts]:
        """By head, (loss sum, number of labels, number predicted right) of `model` on the rows,
        with `perturbation` added to their word vectors."""
        targets = {name: to_device(value, device) for name, value in self.targets.items()}
        masked = self.masked and tuple(to_device(value, device) for value in self.masked)
        segments = None if self.segments is None else to_device(self.segments, device)
        results: dict[str, LossAndCounts] = model(
            *(to_device(self.tokens, device), targets, masked, self.dropout_key, segments),
            *(self.adversary and self.adversary.on(device), perturbation),
        )
        return results


@dataclass(frozen=True)
class FinetuneStep:
    """The part of one data-parallel rank in an optimizer step, and the sizes of the whole step."""

    micro_batches: tuple[MicroBatch, ...]
    label_counts: dict[str, int]
    """By head, the labels of all ranks."""
    rows: RowWindow
    """The positions of its rows in the run."""
    widths: tuple[tuple[int, int], ...]
    """(rows, tokens of each with padding) of every micro-batch of all ranks."""

    @property
    def num_rows(self) -> int:
        """Rows of all ranks; with sampled tasks not all positions of the step hold one."""
        return sum(rows for rows, _ in self.widths)

    @property
    def num_tokens(self) -> int:
        """Tokens of all ranks, padding included."""
        return sum(rows * width for rows, width in self.widths)


class FinetuneBatches:
    """Makes the micro-batches of one data-parallel rank."""

    def __init__(self, plan: FinetunePlan, dp_rank: int) -> None:
        self._plan = plan
        self._dp_rank = dp_rank
        self._stream = _mlm_stream(plan)
        self._reader = self._stream.reader() if self._stream else None

    @property
    def per_step(self) -> int:
        """The most micro-batches of this rank in a step (gradient accumulation)."""
        order = self._plan.task_order
        if order.sampling.type == "all":
            return self._num_micro_batches(order.tasks(0))
        return max(self._num_micro_batches((name,)) for name in self._plan.config.tasks)

    def _num_micro_batches(self, names: Sequence[str]) -> int:
        """Micro-batches of this rank in a step on these tasks."""
        return -(-sum(1 for _ in self._chunks(0, names)) // self._plan.dp_size)

    def steps_from(
        self, consumed_rows: int, skipped: Sequence[RowWindow] = ()
    ) -> Iterator[FinetuneStep]:
        """The steps of the run from position `consumed_rows` on.

        Steps with a row in a `skipped` window are left out.
        """
        (steps,) = self._plan.steps.phases
        for step in steps.from_row(consumed_rows):
            if not any(
                window.start_row < step.end_row and step.start_row < window.end_row
                for window in skipped
            ):
                yield self.step(step.start_row // step.global_rows)

    def step(self, number: int) -> FinetuneStep:
        """The micro-batches of step `number`, counting from 0."""
        config = self._plan.config
        masked = self._masked_rows(number)
        label_counts = dict.fromkeys(self._plan.heads, 0)
        mine: list[MicroBatch] = []
        widths = []
        names = self._plan.task_order.tasks(number)
        for index, (head, part, first_row) in enumerate(self._chunks(number, names)):
            is_mine = index % self._plan.dp_size == self._dp_rank
            key = dropout_key(config.seed, first_row)
            if head == MLM_HEAD:
                assert masked is not None
                label_counts[MLM_HEAD] += int((masked.labels[part] >= 0).sum())
                widths.append(masked.tokens[part].shape)
                if is_mine:
                    mine.append(self._mlm_batch(masked, part, key, first_row))
                continue
            task, examples = config.tasks[head], self._examples(head, number)[part]
            width = self._width(examples)
            label_counts[head] += task.num_used(task.targets(examples, width))
            widths.append((len(examples) * task.rows_per_example, width))
            if is_mine:
                mine.append(self.task_batch(head, examples, key, first_row=first_row))
        # With fewer than the other ranks: rows without labels.
        while len(mine) < self._num_micro_batches(names):
            examples = self._examples(names[0], number)[: self._micro_examples(names[0])]
            mine.append(self.task_batch(names[0], examples, key=0, is_used=False))
        first = number * config.rows_per_step
        rows = RowWindow(start_row=first, end_row=first + config.rows_per_step)
        return FinetuneStep(tuple(mine), label_counts, rows, tuple(widths))

    def task_batch(
        self,
        name: str,
        examples: Sequence[Example],
        key: int,
        is_used: bool = True,
        first_row: int = 0,
    ) -> MicroBatch:
        """The micro-batch of some examples of a task."""
        width = self._width(examples)
        tokens = padded(
            [row for example in examples for row in example.rows],
            *(width, self._plan.model.pad_token_id),
        )  # [B, S]
        task = self._plan.config.tasks[name]
        targets = {name: task.targets(examples, width)} if is_used else {}
        masked = None
        if self._plan.mlm is not None:
            nothing = torch.zeros((len(tokens), 1), dtype=torch.int64)
            masked = (nothing, nothing + UNUSED)
        return MicroBatch(
            tokens,
            self._all_targets(targets, *tokens.shape),
            masked,
            key,
            segments_of(examples, width, self._plan.model.type_vocab_size),
            first_row,
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

    def _chunks(self, number: int, names: Sequence[str]) -> Iterator[tuple[str, slice, int]]:
        """(head, which of its examples, position of the first row) of the micro-batches of a step,
        which trains on the tasks `names`."""
        config = self._plan.config
        row = number * config.rows_per_step
        for name in names:
            task, size = config.tasks[name], self._micro_examples(name)
            for first in range(0, task.examples_per_step, size):
                last = min(first + size, task.examples_per_step)
                yield name, slice(first, last), row + first * task.rows_per_example
            row += task.examples_per_step * task.rows_per_example
        if config.mlm is not None:
            for first in range(0, config.mlm.rows_per_step, config.micro_rows):
                last = min(first + config.micro_rows, config.mlm.rows_per_step)
                yield MLM_HEAD, slice(first, last), row + first

    def _examples(self, name: str, number: int) -> list[Example]:
        """The examples of a task in a step: every epoch has an order of its own."""
        examples = self._plan.train[name].examples
        size = self._plan.config.tasks[name].examples_per_step
        return [examples[i] for i in self._plan.task_order.examples(number, name, size)]

    def _masked_rows(self, number: int) -> MaskedRows | None:
        """The masked rows of all ranks in a step."""
        if self._stream is None or self._plan.config.mlm is None:
            return None
        assert self._reader is not None
        size = self._plan.config.mlm.rows_per_step
        return self._stream.masked_rows(self._reader, np.arange(number * size, (number + 1) * size))

    def _mlm_batch(self, masked: MaskedRows, part: slice, key: int, first_row: int) -> MicroBatch:
        tokens = torch.from_numpy(masked.tokens[part]).long()
        positions = torch.from_numpy(masked.positions[part]).long()
        labels = torch.from_numpy(masked.labels[part]).long()
        targets = self._all_targets({}, *tokens.shape)
        return MicroBatch(tokens, targets, (positions, labels), key, first_row=first_row)

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
        return padded_width(examples, self._plan.model.max_row_tokens)


def heldout_batch(tokens: Tensor, positions: Tensor, labels: Tensor) -> MicroBatch:
    """The micro-batch of held-out packed rows: tokens [B, S], positions and labels [B, K]."""
    return MicroBatch(tokens.long(), {}, (positions.long(), labels.long()), dropout_key=None)


def _mlm_stream(plan: FinetunePlan) -> RowStream | None:
    if plan.mlm is None or plan.config.mlm is None:
        return None
    data, seed = plan.mlm.config.data, plan.config.seed
    return RowStream(
        data=data,
        manifest=plan.mlm.manifest,
        objective=build_objective(plan.config.mlm.objective, data, plan.mlm.manifest),
        order=build_order(
            train_sources(plan.mlm.manifest, data.shuffle_unit),
            [(0, plan.mlm.mixture_weights)],
            seed,
        ),
        seed=seed,
        total_rows=plan.mlm.steps.total_rows,
        phase=0,
        first_row=0,
    )
