"""Held-out scores of a model, under DeepSpeed or alone, summed over all ranks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
import torch.distributed as dist
from torch import nn

from model.config import MLM_HEAD
from model.parallel.grid import Grid
from model.parallel.json_exchange import broadcast_json
from model.parameters import parameter_specs
from pipeline.checkpoint.manifest import Checkpoint
from pipeline.checkpoint.reader import TensorReader, check_checkpoint, load_weights
from pipeline.data.heldout import HeldoutRows, HeldoutScore, rank_slices
from pipeline.engine.step import MicroBatch


class EvaluatedModel(Protocol):
    """What an evaluation needs: `Engine` during training, `PlainModel` after it."""

    @property
    def grid(self) -> Grid:
        """The ranks that compute it."""

    @property
    def model(self) -> Any:
        """Call it for a forward pass."""

    def start_evaluation(self) -> None:
        """Turns dropout off."""


@dataclass(frozen=True)
class PlainModel:
    """A model without optimizer."""

    model: nn.Module
    grid: Grid

    @classmethod
    def of(cls, module: nn.Module, grid: Grid, checkpoint: Checkpoint) -> Self:
        """`module` with the weights of `checkpoint`; raises UserError if they do not fit."""
        manifest = checkpoint.manifest
        check_checkpoint(manifest, parameter_specs(module), manifest.tokenizer_sha256)
        load_weights(module, TensorReader(checkpoint), grid)
        return cls(module, grid)

    def start_evaluation(self) -> None:
        """Turns dropout off."""
        self.model.eval()


def heldout_scores(
    engine: EvaluatedModel,
    heldout: HeldoutRows,
    micro_rows: int,
    micro_batch: Callable[..., MicroBatch],
) -> dict[str, HeldoutScore]:
    """The held-out score of every source, the same on all ranks; training is not affected.

    A collective. Each data-parallel rank takes its share, `micro_rows` rows at a time;
    `micro_batch` makes one of tokens [B, S], positions [B, K] and labels [B, K]; of rows with
    `sample_keys` [B] it gets these too, by name.
    """
    return heldout_scores_of_heads(engine, heldout, micro_rows, micro_batch)[MLM_HEAD]


def heldout_scores_of_heads(
    engine: EvaluatedModel,
    heldout: HeldoutRows,
    micro_rows: int,
    micro_batch: Callable[..., MicroBatch],
) -> dict[str, dict[str, HeldoutScore]]:
    """As `heldout_scores`, by each head that the objective trains."""
    heads = list(heldout.head_weights)
    if not heldout.sources:
        return {head: {} for head in heads}
    grid = engine.grid
    engine.start_evaluation()
    shape = (len(heldout.sources), len(heads), 3)
    sums = torch.zeros(shape, dtype=torch.float64, device=grid.device)
    with torch.no_grad():
        for source_sums, rows in zip(sums, heldout.sources.values(), strict=True):
            slices = rank_slices(len(rows.tokens), micro_rows, grid.dp_rank, grid.dp_size)
            for part, counts in slices:
                arrays = (rows.tokens[part], rows.positions[part], rows.labels[part])
                keys = {}
                if rows.sample_keys is not None:
                    keys = {"sample_keys": torch.from_numpy(rows.sample_keys[part])}
                batch = micro_batch(*(torch.from_numpy(array) for array in arrays), **keys)
                results = batch.forward(engine.model, grid.device)
                scores = [torch.stack([n.double() for n in results[head]]) for head in heads]
                if counts:
                    source_sums += torch.stack(scores)
    dist.all_reduce(sums)
    totals = broadcast_json((sums / grid.tp_size).tolist())  # decisions follow from every bit
    return {
        head: {
            name: HeldoutScore(*total[number])
            for name, total in zip(heldout.sources, totals, strict=True)
        }
        for number, head in enumerate(heads)
    }
