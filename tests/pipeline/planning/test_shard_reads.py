"""How many files the ranks open for a step, and when the planner says so."""

import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from data_prep.dataset.row_reader import MAX_OPEN_SHARDS
from pipeline.planning.shard_reads import note_on_shards, opens_of_a_step
from pipeline.run.assumed_rows import AssumedRows
from pipeline.run.plan import PhasePlan, plan_run
from tests.pipeline.training_run import make_config

BLOCK_ROWS, BLOCKS = 256, 16
ROWS = 8192


def phase_of(num_shards: int, unit: Literal["block", "shard"], ranks: int) -> PhasePlan:
    """A phase of steps of 8,192 rows on a source of so many shards of 16 blocks."""
    config = make_config(
        *(Path("rows"), Path("run")),
        batch={"global_rows": ROWS, "micro_rows": 8},
        total_rows=64 * ROWS,
        schedule={"type": "constant"},
        data={"path": "rows", "shuffle_unit": unit},
    )
    (phase,) = plan_run(config, ranks, AssumedRows(131)).phases
    source = phase.manifest.splits["train"]["assumed"]
    rows = {"rows": BLOCK_ROWS * BLOCKS}
    shards = tuple(source.shards[0].model_copy(update=rows) for _ in range(num_shards))
    source = source.model_copy(
        update={
            "rows": num_shards * BLOCK_ROWS * BLOCKS,
            "block_rows": BLOCK_ROWS,
            "shards": shards,
        }
    )
    manifest = phase.manifest.model_copy(update={"splits": {"train": {"assumed": source}}})
    return dataclasses.replace(phase, manifest=manifest)


def test_blocks_of_a_window_are_spread_over_shards_and_shards_stay_together() -> None:
    """A window has 2^18 rows: 1,024 blocks of 9,000 shards, or 64 whole shards."""
    opens, in_window = opens_of_a_step(phase_of(9000, "block", 1024))
    assert 900 < in_window <= 1024
    assert 0.95 * ROWS < opens <= ROWS  # each of 1,024 ranks has 8 rows of a step
    opens, in_window = opens_of_a_step(phase_of(9000, "block", 8))
    assert 8 * 500 < opens <= 8 * in_window
    assert opens_of_a_step(phase_of(9000, "shard", 1024)) == (0, 64)
    assert opens_of_a_step(phase_of(MAX_OPEN_SHARDS, "block", 1024))[0] == 0


@pytest.mark.parametrize(
    ("num_shards", "unit", "ranks", "is_noted"),
    [
        (9000, "block", 1024, True),
        (9000, "shard", 1024, False),
        (9000, "block", 1, False),
        (200, "block", 1024, False),
    ],
)
def test_many_opens_are_noted(
    num_shards: int, unit: Literal["block", "shard"], ranks: int, is_noted: bool
) -> None:
    note = note_on_shards(phase_of(num_shards, unit, ranks))
    assert (note is not None) == is_noted
    assert note is None or "data.shuffle_unit=shard" in note
