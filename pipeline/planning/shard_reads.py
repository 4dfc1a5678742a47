"""How many files the ranks of a run open for the rows of a step, by its row order."""

import numpy as np
from numpy.typing import NDArray

from data_prep.dataset.row_reader import MAX_OPEN_SHARDS
from pipeline.data.order import WINDOW_ROWS, RowOrder, build_order, mixture_weights, train_sources
from pipeline.run.plan import PhasePlan

MANY_OPENS = 1000
"""More opens in a step than this are worth a note: they are a load for a parallel file system."""


def opens_of_a_step(phase: PhasePlan) -> tuple[int, int]:
    """(files that all ranks open for a step at most, shards of a shuffle window).

    Counted in the first step of the phase, on its first rank; the seed changes little. A process
    keeps `MAX_OPEN_SHARDS` files open: with fewer shards in a window, none is opened again.
    """
    data, batch = phase.config.data, phase.config.batch
    sources = train_sources(phase.manifest, data.shuffle_unit)
    order = build_order(sources, [(0, mixture_weights(data, sources))], seed=0)
    in_window = _num_shards(phase, order, np.arange(min(WINDOW_ROWS, phase.steps.total_rows)))
    if in_window <= MAX_OPEN_SHARDS:
        return 0, in_window
    rows = np.arange(batch.global_rows).reshape(-1, phase.dp_size, batch.micro_rows)
    return phase.dp_size * _num_shards(phase, order, rows[:, 0].ravel()), in_window


def _num_shards(phase: PhasePlan, order: RowOrder, positions: NDArray[np.int64]) -> int:
    """Shards that hold the rows at `positions` of the order."""
    rows, found = order.rows_at(positions), 0
    for number, source in enumerate(order.sources):
        shards = phase.manifest.splits["train"][source.name].shards
        ends = np.cumsum([shard.rows for shard in shards])
        mine = rows.row[rows.source == number]
        found += len(np.unique(np.searchsorted(ends, mine, side="right")))
    return found


def note_on_shards(phase: PhasePlan) -> str | None:
    """Advice where ranks open many files a step and the order could be one that needs few."""
    num_shards = sum(len(source.shards) for source in phase.manifest.splits["train"].values())
    if phase.config.data.shuffle_unit == "shard" or num_shards <= MAX_OPEN_SHARDS:
        return None
    opens, in_window = opens_of_a_step(phase)
    if opens <= MANY_OPENS:
        return None
    return (
        f"the ranks open up to {opens:,} files a step: the rows of a shuffle window lie in "
        f"{in_window:,} of {num_shards:,} shards; data.shuffle_unit=shard takes them from few, in "
        "another order: choose it before the first step"
    )
