"""Runs that continue a folder or another run, at any grid: equal weights, losses and resumes."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.run.config import TrainConfig
from pipeline.tracking.event_log import LOG_NAME, read_events
from tests.gloo import run_ranks
from tests.pipeline.start.continuing import (
    checkpoint_at,
    child_config,
    child_tree,
    make_data,
    parent_config,
    run_tree,
    state_at,
)
from tests.pipeline.training_run import assert_same_bits, pretrain


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "rows")


@pytest.fixture(scope="module")
def parent(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A finished run on two tensor-parallel ranks."""
    config = parent_config(
        rows, tmp_path_factory.mktemp("parent") / "run", parallel={"tensor": 2, "zero_stage": 1}
    )
    run_ranks(pretrain, 2, config)
    return config


def heldout_losses(config: TrainConfig) -> dict[int, float]:
    events = [event for event, _ in read_events(config.output / LOG_NAME)]
    return {
        event["step"]: event["values"]["heldout_loss"]
        for event in events
        if "heldout_loss" in event.get("values", {})
    }


@pytest.mark.parametrize(
    ("world_size", "tensor", "zero_stage", "moments"),
    [(1, 1, 1, True), (2, 2, 1, False), (2, 1, 2, False), (2, 1, 3, True)],
)
def test_a_branch_starts_with_the_parents_weights_and_loss_at_any_grid(
    rows: Path,
    parent: TrainConfig,
    tmp_path: Path,
    world_size: int,
    tensor: int,
    zero_stage: int,
    moments: bool,
) -> None:
    start = {"type": "run", "path": str(parent.output), "step": 10, "moments": moments}
    parallel = {"tensor": tensor, "zero_stage": zero_stage}
    tree = child_tree(rows, tmp_path / "run", start, parallel=parallel)
    run_ranks(run_tree, world_size, tree)
    child = child_config(rows, tmp_path / "run", start)
    at_start = checkpoint_at(child, 0).manifest
    keys = () if moments else ("weight",)
    assert_same_bits(state_at(parent, 10, *keys), state_at(child, 0, *keys))
    assert at_start.optimizer_step == (10 if moments else 0)
    assert checkpoint_at(child, 4).manifest.optimizer_step == (14 if moments else 4)
    if not moments:
        assert all(not t.any() for t in state_at(child, 0, "exp_avg", "exp_avg_sq").values())
    expected = checkpoint_at(parent, 10).manifest.heldout_loss
    assert at_start.heldout_loss == pytest.approx(expected, rel=1e-6)
    assert heldout_losses(child)[0] == at_start.heldout_loss
