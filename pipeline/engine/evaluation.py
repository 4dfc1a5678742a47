"""Held-out scores of a model under DeepSpeed, summed over all ranks."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from model.config import MLM_HEAD
from model.parallel.json_exchange import broadcast_json
from pipeline.data.heldout import HeldoutRows, HeldoutScore, rank_slices
from pipeline.engine.deepspeed_engine import Engine
from pipeline.engine.step import MicroBatch


def heldout_scores(
    engine: Engine,
    heldout: HeldoutRows,
    micro_rows: int,
    micro_batch: Callable[[Tensor, Tensor, Tensor], MicroBatch],
) -> dict[str, HeldoutScore]:
    """The held-out score of every source, the same on all ranks; training is not affected.

    A collective. Each data-parallel rank takes its share, `micro_rows` rows at a time;
    `micro_batch` makes one of tokens [B, S], positions [B, K] and labels [B, K].
    """
    if not heldout.sources:
        return {}
    grid = engine.grid
    engine.start_evaluation()
    shape = (len(heldout.sources), 3)
    sums = torch.zeros(shape, dtype=torch.float64, device=grid.device)
    with torch.no_grad():
        for source_sums, rows in zip(sums, heldout.sources.values(), strict=True):
            slices = rank_slices(len(rows.tokens), micro_rows, grid.dp_rank, grid.dp_size)
            for part, counts in slices:
                arrays = (rows.tokens[part], rows.positions[part], rows.labels[part])
                batch = micro_batch(*(torch.from_numpy(array) for array in arrays))
                scores = batch.forward(engine.model, grid.device)[MLM_HEAD]
                if counts:
                    source_sums += torch.stack([value.double() for value in scores])
    dist.all_reduce(sums)
    totals = broadcast_json((sums / grid.tp_size).tolist())  # decisions follow from every bit
    return {name: HeldoutScore(*total) for name, total in zip(heldout.sources, totals, strict=True)}
