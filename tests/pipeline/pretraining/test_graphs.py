"""Whole runs whose micro-batches are graphs: the bits of eager, resumed and rolled back too.

`RecordedGraphs` stands for CUDA's; tests/pipeline/gpu has the same on a GPU.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pipeline.pretraining import engine
from pipeline.run.config import TrainConfig
from tests.gloo import RankError, run_ranks
from tests.pipeline.engine.recorded_graphs import RecordedGraphs, as_on_a_gpu
from tests.pipeline.gpu.gpu_runs import forget_after
from tests.pipeline.pretraining.test_instability import pretrain_with_bad_rows
from tests.pipeline.training_run import (
    SMALL_MODEL,
    assert_same_bits,
    final_state,
    make_config,
    make_rows,
    metrics,
    pretrain,
)


def in_recorded_graphs(train: Callable[..., None], config: TrainConfig, *arguments: Any) -> int:
    """Trains; how many micro-batches were replayed in the last engine."""
    made: list[RecordedGraphs] = []

    def graphs(_: Any) -> RecordedGraphs:
        made.append(RecordedGraphs())
        return made[-1]

    with as_on_a_gpu(), mock.patch.object(engine, "CudaGraphs", graphs):
        train(config, *arguments)
    return made[-1].num_replays if made else 0


def config_of(tmp_path: Path, name: str, cuda_graphs: str, **changes: Any) -> TrainConfig:
    return make_config(
        *(tmp_path / "rows", tmp_path / name),
        precision="bf16",
        compute={"compile": "on", "cuda_graphs": cuda_graphs},
        gradient_clipping=0.5,
        schedule={"type": "constant"},
        **changes,
    )


def assert_same_run(first: TrainConfig, second: TrainConfig) -> None:
    for name in ("loss", "gradient_norm", "accuracy"):
        assert metrics(first, name) == metrics(second, name)
    assert_same_bits(final_state(first), final_state(second))


def test_a_run_in_graphs_is_eager_to_the_last_bit_resumed_too(tmp_path: Path) -> None:
    """Two data-parallel ranks, evaluations, and a phase with another dropout rate."""
    make_rows(tmp_path / "rows")
    settings: dict[str, Any] = {
        "total_rows": 6 * 16,
        "batch": {"global_rows": 16, "micro_rows": 2},
        "model": {**SMALL_MODEL, "hidden_size": 256},  # enough for a reduce-scatter
        "evaluation": {"every_steps": 3, "rows_per_source": 8},
        "checkpoint": {"every_steps": 3},
        "then": [{"total_rows": 3 * 16, "model": {"hidden_dropout": 0.3}}],
    }
    eager = config_of(tmp_path, "eager", "off", **settings)
    whole = config_of(tmp_path, "whole", "on", **settings)
    assert run_ranks(in_recorded_graphs, 2, pretrain, eager) == [0, 0]
    for num_replays in run_ranks(in_recorded_graphs, 2, pretrain, whole):
        assert num_replays == 9 * 4 - 2 * 4  # each phase warms up three, and captures one
    assert_same_run(whole, eager)
    resumed = forget_after(whole, tmp_path / "resumed", step=6)
    run_ranks(in_recorded_graphs, 2, pretrain, resumed)
    assert_same_run(resumed, eager)


def test_a_run_in_graphs_rolls_back_like_eager(tmp_path: Path) -> None:
    make_rows(tmp_path / "rows")
    settings: dict[str, Any] = {
        "total_rows": 10 * 16,
        "checkpoint": {"every_steps": 4},
        "stability": {"max_skipped_in_a_row": 2},
    }
    bad_rows = range(5 * 16, 7 * 16)
    runs = []
    for word in ("off", "on"):
        config = config_of(tmp_path, word, word, **settings)
        train = (pretrain_with_bad_rows, config, bad_rows, "not finite")
        (num_replays,) = run_ranks(in_recorded_graphs, 1, *train)
        # After a rollback to step 4 two steps are left out.
        assert num_replays == (4 * 4 - 4 if word == "on" else 0)
        runs.append(config)
    assert_same_run(*runs)


def test_without_a_gpu_a_run_in_graphs_is_refused(tmp_path: Path) -> None:
    make_rows(tmp_path / "rows", rows=64)
    config = config_of(tmp_path, "run", "on", total_rows=32)
    with pytest.raises(RankError, match=r"compute\.cuda_graphs on needs a CUDA device"):
        run_ranks(pretrain, 1, config)
