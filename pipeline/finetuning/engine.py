"""A model with task heads under DeepSpeed: its steps and its scores on the files to evaluate on.

B rows, S tokens in a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from model.heads import MultiTaskModel, build_multi_task
from model.parallel.grid import Grid
from model.parameters import parameter_specs
from pipeline.checkpoint.manifest import Checkpoint
from pipeline.checkpoint.reader import TensorReader, check_checkpoint, load_weights
from pipeline.data.heldout import HeldoutRows, HeldoutScore
from pipeline.engine.deepspeed_engine import Engine
from pipeline.finetuning.batches import FinetuneBatches, FinetuneStep
from pipeline.finetuning.config import MLM
from pipeline.finetuning.plan import FinetunePlan


@dataclass(frozen=True)
class FinetuneResult:
    """What one optimizer step gave, equal on all ranks."""

    losses: dict[str, float]
    """Mean loss of every head."""
    loss: float
    """Their weighted sum, which is trained on."""
    gradient_norm: float
    """Norm of the whole gradient before clipping."""
    skipped: bool
    """True when a gradient was not finite, and no weight was changed."""

    def metrics(self) -> dict[str, float]:
        """The values under the names that they are recorded with."""
        return {
            "loss": self.loss,
            **{f"loss/{name}": value for name, value in self.losses.items()},
            "gradient_norm": self.gradient_norm,
            "skipped": float(self.skipped),
        }


def build_finetune_model(plan: FinetunePlan, grid: Grid) -> MultiTaskModel:
    """The fp32 model of the run with its initial weights; what no task trains is frozen."""
    config = plan.config
    heads = {name: task.head() for name, task in config.tasks.items()}
    model = build_multi_task(
        plan.model, heads, plan.start.vocab_size, grid, config.seed, config.compute
    )
    if plan.mlm is None:
        model.head.requires_grad_(False)
    if not any(task.reads_pooled for task in config.tasks.values()):
        model.pooler.requires_grad_(False)
    return model


def build_finetune_engine(
    plan: FinetunePlan, grid: Grid, checkpoint: Checkpoint | None, accumulation: int
) -> "FinetuneEngine":
    """The engine at the pretrained weights, or as `checkpoint` of this run left it."""
    model = build_finetune_model(plan, grid)
    if checkpoint is None:
        missing = plan.start.load(model, grid)
        lacks_head = plan.mlm is not None and any(name.startswith("head.") for name in missing)
        if lacks_head and grid.rank == 0:
            print("the masked-language-model head is not in the start: begins at random")
        return FinetuneEngine(model, plan.config, accumulation, grid)
    check_checkpoint(checkpoint.manifest, parameter_specs(model), plan.start.tokenizer_sha256)
    reader = TensorReader(checkpoint)
    load_weights(model, reader, grid)
    engine = FinetuneEngine(model, plan.config, accumulation, grid)
    engine.restore(reader, checkpoint.manifest)
    return engine


class FinetuneEngine(Engine):
    """Takes optimizer steps on several heads together; every method is a collective."""

    def finetune_step(
        self, batch: FinetuneStep, weights: dict[str, float], learning_rate: float
    ) -> FinetuneResult:
        """Takes one step on the weighted sum of the heads' mean losses over all ranks."""
        device, dp_size = self._grid.device, self._grid.dp_size
        names = list(batch.num_used)
        sums = torch.zeros(len(names), dtype=torch.float64, device=device)
        scales = [
            weights[n] * dp_size / batch.num_used[n] if batch.num_used[n] else 0.0 for n in names
        ]

        def loss_of(number: int) -> Tensor:
            micro = batch.micro_batches[number]
            targets = {name: value.to(device) for name, value in micro.targets.items()}
            masked = micro.masked and tuple(value.to(device) for value in micro.masked)
            results = self._engine(micro.tokens.to(device), targets, masked, micro.dropout_key)
            losses = torch.stack([results[name][0] for name in names])
            sums.add_(losses.detach())
            return (losses * losses.new_tensor(scales)).sum()

        norm, skipped = self.take_step(len(batch.micro_batches), loss_of, learning_rate)
        dist.all_reduce(sums)
        totals = (sums / self._grid.tp_size).tolist()
        losses = {
            name: total / batch.num_used[name]
            for name, total in zip(names, totals, strict=True)
            if batch.num_used[name]
        }
        loss = sum(weights[name] * value for name, value in losses.items())
        return FinetuneResult(losses, loss, norm, skipped)

    def dev_scores(self, plan: FinetunePlan, name: str) -> list[NDArray[np.float64]]:
        """The scores of every example to evaluate on, in their order, on all ranks."""
        self._engine.eval()
        mine: dict[int, NDArray[np.float64]] = {}
        rows = plan.config.tasks[name].rows_per_example
        with torch.no_grad():
            for numbers, batch, counts in FinetuneBatches(plan, self._grid.dp_rank).dev_batches(
                name
            ):
                scores = self._engine(batch.tokens.to(self._grid.device), None)[name]
                by_example = scores.double().cpu().numpy()
                for place, number in enumerate(numbers if counts else []):
                    one = by_example[place * rows : (place + 1) * rows]
                    mine[number] = one if rows > 1 else one[0]
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, mine if self._grid.tp_rank == 0 else {})
        together = {number: scores for part in parts for number, scores in part.items()}
        return [together[number] for number in sorted(together)]

    def mlm_scores(self, heldout: HeldoutRows, micro_rows: int) -> dict[str, HeldoutScore]:
        """The held-out score of every source of packed rows."""

        def forward(inputs: list[Tensor]) -> Sequence[Tensor]:
            tokens, positions, labels = inputs
            scores: Sequence[Tensor] = self._engine(tokens, {}, (positions, labels))[MLM]
            return scores

        return self.heldout_scores(heldout, micro_rows, forward)
