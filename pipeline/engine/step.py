"""One optimizer step, from the micro-batches of a rank to the values that are recorded of it.

Pretraining and fine-tuning take the same step: pretraining has one head, "mlm". Besides DeepSpeed's
own communication, a step costs one collective (one more where ranks have to add up their label
counts first) and one transfer from the device; `tests/pipeline/engine/test_step.py` enforces that.
At ZeRO 1 it is all that the host waits for, and the norm of the gradient is part of it.

H heads, W ranks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from model.parallel.grid import Grid
from model.task_heads import LossAndCounts
from model.transfer import to_device
from pipeline.engine.deepspeed_engine import Engine
from pipeline.engine.graphed_passes import GraphedMicroBatch, loss_sums
from pipeline.engine.stragglers import RankMeasurements, Stopwatch, measure_rank
from pipeline.launch.stop_agreement import StepAbandoned, StopAgreement


class MicroBatch(Protocol):
    """What one forward pass takes: rows of one task, or rows with masks."""

    def forward(self, model: Any, device: torch.device) -> Mapping[str, LossAndCounts]:
        """By head, (loss sum, number of labels, number predicted right) of `model` on the rows."""


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step gave, equal on all ranks."""

    loss: float
    """Weighted sum of the heads' mean losses, which is trained on."""
    losses: dict[str, float]
    """Mean loss of each head that has labels in this step, nats a label."""
    accuracies: dict[str, float]
    """Share of labels predicted right, of each head that has labels in this step."""
    label_counts: dict[str, int]
    """Labels of each head in the global batch."""
    gradient_norm: float
    """Norm of the whole gradient before clipping; not finite when the step was skipped."""
    skipped: bool
    """True when a gradient was not finite, and no weight was changed."""
    overflowed: bool
    """True when it was skipped because of the fp16 loss scale, which is lower now."""
    loss_scale: float | None
    """The factor on the loss in this step, None except in fp16."""
    stop_requested: bool
    """True when any rank has received a stop signal."""
    ranks: tuple[RankMeasurements, ...]
    """What each rank measured, by rank."""

    @property
    def clock_s(self) -> float:
        """Seconds on the clock of rank 0, equal on all ranks."""
        return self.ranks[0].clock_s

    @property
    def is_finite(self) -> bool:
        """False when gradients were not finite for a reason other than the fp16 loss scale."""
        return not self.skipped or self.overflowed

    def metrics(self) -> dict[str, float]:
        """The values under the names that they are recorded with."""
        values = {
            "loss": self.loss,
            "gradient_norm": self.gradient_norm,
            "skipped": float(self.skipped),
        }
        return values | ({} if self.loss_scale is None else {"loss_scale": self.loss_scale})


def take_step(
    engine: Engine,
    micro_batches: Sequence[MicroBatch],
    label_counts: Tensor,
    weights: Mapping[str, float],
    learning_rate: float,
    stop: StopAgreement | None = None,
    data_wait_s: float = 0.0,
) -> StepResult:
    """Takes one optimizer step on the weighted sum of the heads' mean losses; a collective.

    `micro_batches` are this rank's, equally many on every rank. `label_counts` [H] are the labels
    of each head over all ranks, float64 on the device, in the order of `weights`, which gives each
    head's factor. `data_wait_s` is how long this rank waited for its micro-batches.
    """
    grid, heads = engine.grid, list(weights)
    # Loss sums are divided once, by the labels of the global batch: how its rows are split into
    # micro-batches and over ranks then makes no difference.
    scales = _loss_scales(grid, label_counts, list(weights.values()))  # [H]
    total_losses = torch.zeros(len(heads), dtype=torch.float64, device=grid.device)
    num_right = torch.zeros_like(total_losses)
    run = _run_kernel_by_kernel if engine.graphs is None else _run_in_graphs
    loss_scale = engine.loss_scale
    forward_time = Stopwatch(grid.device)

    engine.start_step(learning_rate)
    for number, micro_batch in enumerate(micro_batches):  # gradient accumulation
        if stop is not None and stop.leaves_step():
            raise StepAbandoned
        engine.start_micro_batch(is_last=number == len(micro_batches) - 1)
        losses, is_right = run(engine, micro_batch, heads, scales, forward_time)  # [H] each
        total_losses += losses
        num_right += is_right
    norm_part = engine.norm_part()

    # Everything that ranks report to each other goes into one vector and one collective, for which
    # the host waits once. It then starts the update of the weights, without waiting for it.
    is_stopping = stop is not None and stop.seen
    measured = astuple(measure_rank(forward_time.seconds(), data_wait_s))
    from_host = torch.tensor([is_stopping, *measured], dtype=torch.float64)
    parts = (total_losses, num_right, label_counts, norm_part.reshape(1), from_host)
    table = _gather(grid, torch.cat([to_device(part, grid.device) for part in parts]))
    ends = np.cumsum([len(heads), len(heads), len(heads), 1, 1])
    loss_table, right_table, counts, norms, stops, measurements = np.split(table, ends, axis=1)
    norm, skipped = engine.finish_step(norms[:, 0].tolist())

    means = _means(grid, heads, loss_table, counts)
    loss = sum(weights[head] * mean for head, mean in means.items())
    return StepResult(
        loss=loss,
        losses=means,
        accuracies=_means(grid, heads, right_table, counts),
        label_counts={head: int(n) for head, n in zip(heads, counts[0], strict=True)},
        gradient_norm=norm,
        skipped=skipped,
        overflowed=skipped and engine.loss_scale != loss_scale and math.isfinite(loss),
        loss_scale=None if loss_scale is None else loss_scale.scale,
        stop_requested=bool(stops.any()),
        ranks=tuple(RankMeasurements(*row) for row in measurements.tolist()),
    )


def _run_kernel_by_kernel(
    engine: Engine,
    micro_batch: MicroBatch,
    heads: Sequence[str],
    scales: Tensor,
    forward_time: Stopwatch,
) -> tuple[Tensor, Tensor]:
    """([H] loss sums, [H] numbers predicted right) after both passes of a micro-batch, of whose
    losses times `scales` [H] gradients are added; after the last one of a step weights change."""
    with forward_time:
        results = micro_batch.forward(engine.model_in_step, engine.grid.device)
        losses, num_right = loss_sums(results, heads)
    engine.backward((losses * scales).sum())
    return losses.detach(), num_right


def _run_in_graphs(
    engine: Engine,
    micro_batch: MicroBatch,
    heads: Sequence[str],
    scales: Tensor,
    forward_time: Stopwatch,
) -> tuple[Tensor, Tensor]:
    """The same in the engine's graphs, where the forward pass has no time of its own: both have."""
    assert engine.graphs is not None
    assert isinstance(micro_batch, GraphedMicroBatch)
    with forward_time:
        if engine.loss_scale is not None:  # by which DeepSpeed multiplies in `Engine.backward`
            scales = scales * engine.loss_scale.scale
        losses, num_right = engine.graphs.run(micro_batch, heads, scales)
    engine.finish_graph()
    return losses, num_right


def count_labels(grid: Grid, *is_labelled: Tensor) -> Tensor:
    """[H] float64 on the device: the labels of all data-parallel ranks together; a collective.

    `is_labelled` says for each head which of this rank's slots have a label. For callers of
    `take_step` whose ranks know only their own rows. The counts stay on the device, so that the
    host does not wait for them.
    """
    counts = torch.stack([labelled.sum() for labelled in is_labelled])
    counts = to_device(counts.double(), grid.device)
    dist.all_reduce(counts)
    return counts / grid.tp_size  # tensor-parallel peers count the same labels


def _loss_scales(grid: Grid, label_counts: Tensor, weights: Sequence[float]) -> Tensor:
    """[H] fp32: the factor on each head's loss sum; 0 for a head without labels in this step.

    Times the data-parallel ranks, over which DeepSpeed averages gradients.
    """
    factors = to_device(torch.tensor(weights, dtype=torch.float64), grid.device) * grid.dp_size
    return torch.where(label_counts > 0, factors / label_counts, 0.0).float()


def _gather(grid: Grid, mine: Tensor) -> NDArray[np.float64]:
    """[W, n] on the host: the vector `mine` [n] of every rank; the step's transfer."""
    gathered = mine.new_empty(grid.world_size * len(mine))
    gather = getattr(dist, "all_gather_single", None)  # its name before torch 2.13 is the other one
    (gather or dist.all_gather_into_tensor)(gathered, mine)
    table: NDArray[np.float64] = gathered.view(grid.world_size, -1).cpu().numpy()
    return table


def _means(
    grid: Grid, heads: Sequence[str], sums: NDArray[np.float64], counts: NDArray[np.float64]
) -> dict[str, float]:
    """Of each head with labels, the sum over data-parallel ranks divided by its global count.

    `sums` [W, H] are equal on tensor-parallel peers, of which one is taken.
    """
    totals = sums[:: grid.tp_size].sum(axis=0)
    return {
        head: float(total / count)
        for head, total, count in zip(heads, totals, counts[0], strict=True)
        if count
    }
