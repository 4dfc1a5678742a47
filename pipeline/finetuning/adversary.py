"""Adversarial training of a fine-tuning step: its micro-batches under FreeLB or SMART.

B rows, S tokens in a row, T = B x S, E width of the word vectors; ``/tp`` sharded over
tensor-parallel ranks, under sequence parallelism.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.adversarial import Adversary, ascended_rows, first_of_rows, row_keys, text_of
from model.adversarial_options import FinetuningAdversary, FreeLb
from model.config import ModelConfig
from model.objectives.head_names import ADVERSARIAL
from model.parallel.grid import Grid
from model.task_heads import LossAndCounts
from model.transfer import to_device
from pipeline.engine.step import MicroBatch as AnyMicroBatch
from pipeline.finetuning.batches import MicroBatch


@dataclass(frozen=True)
class AdversarialStep:
    """What `take_step` gets for a step of fine-tuning."""

    micro_batches: Sequence[AnyMicroBatch]
    label_counts: dict[str, int]
    """By head, the labels of all ranks, those of every pass."""
    weights: dict[str, float]
    """By head."""


def passes_of(options: FinetuningAdversary) -> int:
    """Backward passes of a micro-batch."""
    return options.steps if options.type == "freelb" else 1


def adversarial_step(
    micro_batches: Sequence[MicroBatch],
    label_counts: Mapping[str, int],
    weights: Mapping[str, float],
    options: FinetuningAdversary,
    seed: int,
    grid: Grid,
    model: ModelConfig,
) -> AdversarialStep:
    """The step with the passes and heads that `options` add; `seed` is that of the run, `grid` that
    of its model."""
    if options.type == "none":
        return AdversarialStep(micro_batches, dict(label_counts), dict(weights))
    if options.type == "smart":
        counts, factors = dict(label_counts), dict(weights)
        for head, weight in weights.items():
            factors[ADVERSARIAL + head] = options.alpha * weight
            counts[ADVERSARIAL + head] = label_counts[head]
        regularised = [
            replace(batch, adversary=Adversary(options, _keys(batch, seed)))
            for batch in micro_batches
        ]
        return AdversarialStep(regularised, counts, factors)
    passes = []
    for batch in micro_batches:
        ascent = _Ascent(options, _keys(batch, seed), grid, model)
        passes += [_FreeLbPass(batch, ascent)] * options.steps
    # Every label is counted once a pass, so that the loss is the mean over the passes.
    counts = {head: count * options.steps for head, count in label_counts.items()}
    return AdversarialStep(passes, counts, dict(weights))


def _keys(batch: MicroBatch, seed: int) -> Tensor:
    """[B] int64: the random words of its rows."""
    return row_keys(seed, batch.first_row + np.arange(len(batch.tokens)))


@dataclass
class _Ascent:
    """The perturbation of one micro-batch, which the backward pass of each forward pass moves."""

    options: FreeLb
    keys: Tensor
    grid: Grid
    config: ModelConfig
    _newest: Tensor | None = field(default=None, init=False)

    def next(self, tokens: Tensor) -> Tensor:
        """[T(/tp), E]: the perturbation of the next pass on `tokens` [B, S], on their device."""
        grid, config = self.grid, self.config
        if self._newest is None:
            is_text = text_of(tokens, config.pad_token_id, grid)
            keys, width = to_device(self.keys, tokens.device), config.embedding_width
            start = first_of_rows(keys, tokens, is_text, width, self.options, grid)
        else:
            gradient = self._newest.grad
            assert gradient is not None
            # After an overflow of fp16 the step is skipped; its losses are finite.
            gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
            gradient = gradient * text_of(tokens, config.pad_token_id, grid)
            start = ascended_rows(self._newest.detach(), gradient, tokens, self.options, grid)
        self._newest = start.requires_grad_()
        return self._newest


@dataclass(frozen=True)
class _FreeLbPass:
    """One forward pass on the rows of a micro-batch, the next one at each call."""

    batch: MicroBatch
    ascent: _Ascent

    def forward(self, model: Any, device: torch.device) -> dict[str, LossAndCounts]:
        perturbation = self.ascent.next(to_device(self.batch.tokens, device))
        return self.batch.forward(model, device, perturbation)
