"""Whole training runs: equal on any grid, and bit for bit the same after any interruption."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.checkpoint.manifest import CheckpointManifest, find_checkpoint
from pipeline.checkpoint.reader import TensorReader
from pipeline.data.order import train_sources
from pipeline.data.shard_cache import open_data_set
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import DONE_NAME, checkpoints_folder, is_done
from pipeline.run.steps import RunSteps
from pipeline.tracking.event_log import LOG_NAME, read_events
from tests.gloo import run_ranks
from tests.pipeline.training_run import (
    assert_same_bits,
    final_state,
    make_config,
    make_rows,
    metrics,
    pretrain,
)

SCHEDULE = {"type": "linear", "warmup_rows": 64, "total_rows": 320}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder)
    return folder


@pytest.fixture(scope="module")
def one_rank(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A finished run on one rank with the defaults."""
    config = make_config(rows, tmp_path_factory.mktemp("one") / "run")
    run_ranks(pretrain, 1, config)
    return config


@pytest.fixture(scope="module")
def one_rank_of_schedule(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A finished run on one rank whose schedule does not depend on `total_rows`."""
    folder = tmp_path_factory.mktemp("schedule")
    config = make_config(rows, folder / "run", schedule=SCHEDULE)
    run_ranks(pretrain, 1, config)
    return config


def newest(config: TrainConfig) -> CheckpointManifest:
    checkpoint, problems = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None, problems
    return checkpoint.manifest


def test_a_run_learns_and_records_every_step(rows: Path, tmp_path: Path) -> None:
    config = make_config(
        rows, tmp_path / "run", total_rows=200 * 16, optimizer={"type": "adamw", "lr": 5e-3}
    )
    run_ranks(pretrain, 1, config)
    losses = metrics(config, "loss")
    assert len(losses) == 200
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert is_done(config)
    events = [event for event, _ in read_events(config.output / LOG_NAME)]
    scores = [event["values"] for event in events if "heldout_loss" in event.get("values", {})]
    assert len(scores) == 20
    assert scores[-1]["heldout_loss"] < 0.9 * scores[-1]["heldout_unigram_loss"]
    assert {"heldout_loss/a", "heldout_loss/b"} <= scores[-1].keys()


@pytest.mark.parametrize(
    ("world_size", "tensor", "zero_stage"),
    [
        (2, 2, 1),
        (2, 1, 2),
        (2, 1, 3),
        (4, 2, 2),
        pytest.param(2, 1, 1, marks=pytest.mark.slow),
        pytest.param(2, 2, 3, marks=pytest.mark.slow),
    ],
)
def test_another_grid_gives_the_same_losses_and_norms(
    rows: Path,
    one_rank: TrainConfig,
    tmp_path: Path,
    world_size: int,
    tensor: int,
    zero_stage: int,
) -> None:
    other = make_config(
        rows, tmp_path / "other", parallel={"tensor": tensor, "zero_stage": zero_stage}
    )
    run_ranks(pretrain, world_size, other)
    for name in ("loss", "gradient_norm"):
        assert metrics(other, name) == pytest.approx(metrics(one_rank, name), rel=1e-5), name
    assert newest(other).heldout_loss == pytest.approx(newest(one_rank).heldout_loss, rel=1e-5)


@pytest.mark.parametrize(
    ("world_size", "tensor", "zero_stage", "precision", "layers"),
    [
        (2, 2, 1, "bf16", "off"),
        (2, 1, 2, "bf16", "off"),
        (2, 1, 3, "bf16", "off"),
        (1, 1, 1, "fp32", "off"),
        (1, 1, 1, "bf16", "on"),
        (2, 2, 1, "bf16", "on"),
    ],
)
def test_stopped_by_a_signal_and_resumed_is_bit_equal_to_uninterrupted(
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    world_size: int,
    tensor: int,
    zero_stage: int,
    precision: str,
    layers: str,
) -> None:
    parallel = {"tensor": tensor, "zero_stage": zero_stage}
    settings: dict[str, Any] = {
        "parallel": parallel,
        "precision": precision,
        "compute": {"compile": layers},
    }
    whole = make_config(rows, tmp_path / "whole", **settings)
    run_ranks(pretrain, world_size, whole)
    stopped = make_config(rows, tmp_path / "stopped", **settings)
    run_ranks(pretrain_until_signalled, world_size, stopped, 7)
    at = newest(stopped)
    assert 7 <= at.step < 20
    assert at.consumed_rows == at.step * 16
    assert not (stopped.output / DONE_NAME).exists()
    with monkeypatch.context() as patched:  # no initial value is drawn that is read anyway
        patched.delattr("model.parameters.initial_tensor")
        run_ranks(pretrain, world_size, stopped)
    assert newest(stopped).step == 20
    assert_same_bits(final_state(whole), final_state(stopped))
    assert metrics(whole, "loss") == metrics(stopped, "loss")


def test_phases_and_batch_warmup_resume_bit_equal(rows: Path, tmp_path: Path) -> None:
    make_rows(tmp_path / "longer", rows=128, row_tokens=64)
    settings: dict[str, Any] = {
        "total_rows": 96,
        "batch": {
            "global_rows": 16,
            "micro_rows": 2,
            "warmup": [{"until_row": 8, "global_rows": 4}, {"until_row": 30, "global_rows": 8}],
        },
        "then": [
            {
                "data": {"path": str(tmp_path / "longer"), "workers": 0},
                "total_rows": 40,
                "batch": {"global_rows": 8, "micro_rows": 4},
                "schedule": {"type": "cosine"},
            }
        ],
        "model": {**make_config(rows, tmp_path).model.model_dump(), "max_row_tokens": 64},
        "checkpoint": {"every_steps": 3},
    }
    whole = make_config(rows, tmp_path / "whole", **settings)
    steps = RunSteps(tuple(phase.steps for phase in whole.phases))
    assert [phase.segments for phase in steps.phases] == [
        ((0, 8, 4), (8, 32, 8), (32, 96, 16)),
        ((0, 40, 8),),
    ]
    assert steps.total_steps == 2 + 3 + 4 + 5
    run_ranks(pretrain, 1, whole)
    assert metrics(whole, "rows") == [4, 8, 16, 24, 32, 48, 64, 80, 96, 104, 112, 120, 128, 136]
    assert metrics(whole, "tokens")[8:10] == [16 * 32, 8 * 64]
    for stop_after in (4, 11):
        stopped = make_config(rows, tmp_path / f"stopped-{stop_after}", **settings)
        run_ranks(pretrain_until_signalled, 1, stopped, stop_after)
        assert newest(stopped).step < 14
        run_ranks(pretrain, 1, stopped)
        assert_same_bits(final_state(whole), final_state(stopped))


def test_new_mixture_weights_are_a_recorded_segment(rows: Path, tmp_path: Path) -> None:
    schedule = {"type": "linear", "warmup_rows": 64, "total_rows": 320}
    for total_rows, weights in ((160, {"a": 1.0, "b": 1.0}), (320, {"a": 3.0, "b": 1.0})):
        config = make_config(
            rows,
            tmp_path / "run",
            total_rows=total_rows,
            schedule=schedule,
            weights=weights,
        )
        run_ranks(pretrain, 1, config)
    data = {**config.data.model_dump(mode="json"), "weights": None, "sampling_exponent": 0.5}
    config = make_config(rows, tmp_path / "run", schedule=schedule, total_rows=480, data=data)
    run_ranks(pretrain, 1, config)
    sizes = {size.name: size.rows for size in train_sources(open_data_set(config.data))}
    assert [(s.phase, s.start_row, s.weights) for s in newest(config).segments] == [
        (0, 0, {"a": 1, "b": 1}),
        (0, 160, {"a": 3, "b": 1}),
        (0, 320, pytest.approx({name: num_rows**0.5 for name, num_rows in sizes.items()})),
    ]


def pretrain_until_signalled(config: TrainConfig, step: int) -> None:
    """Trains; only the last rank gets SIGTERM, soon after `step`: all must stop together."""
    import torch.distributed as dist

    if dist.get_rank() == dist.get_world_size() - 1:

        def watch() -> None:
            while True:
                if (config.output / LOG_NAME).exists():
                    events = [event for event, _ in read_events(config.output / LOG_NAME)]
                    if any(event.get("step", 0) >= step for event in events):
                        os.kill(os.getpid(), signal.SIGTERM)
                        return
                time.sleep(0.001)

        threading.Thread(target=watch, daemon=True).start()
    pretrain(config)


@pytest.mark.parametrize(
    ("before", "after"),
    [((1, 1, 1), (2, 2, 3)), ((2, 2, 1), (1, 1, 2)), ((2, 1, 3), (2, 2, 1))],
    ids=str,
)
def test_a_checkpoint_resumes_at_another_grid(
    rows: Path,
    one_rank_of_schedule: TrainConfig,
    tmp_path: Path,
    before: tuple[int, int, int],
    after: tuple[int, int, int],
) -> None:
    whole = one_rank_of_schedule
    for total_rows, (world_size, tensor, zero_stage) in ((160, before), (320, after)):
        moved = make_config(
            rows,
            tmp_path / "moved",
            schedule=SCHEDULE,
            total_rows=total_rows,
            parallel={"tensor": tensor, "zero_stage": zero_stage},
        )
        run_ranks(pretrain, world_size, moved)
    assert metrics(moved, "loss") == pytest.approx(metrics(whole, "loss"), abs=1e-6, rel=1e-6)
    for name, tensor_of_whole in final_state(whole).items():
        torch.testing.assert_close(
            final_state(moved)[name], tensor_of_whole, rtol=1e-4, atol=1e-6, msg=name
        )


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
@pytest.mark.parametrize("dp_size", [1, 2])
@pytest.mark.parametrize("tensor", [1, 2, 4])
def test_every_grid_resumes_from_a_checkpoint_of_another(
    half_done: TrainConfig,
    one_rank_of_schedule: TrainConfig,
    rows: Path,
    tmp_path: Path,
    tensor: int,
    dp_size: int,
    zero_stage: int,
) -> None:
    """Half of the steps at tensor parallel 2, data parallel 1, ZeRO 1; then any grid."""
    whole = one_rank_of_schedule
    shutil.copytree(half_done.output, tmp_path / "run")
    parallel = {"tensor": tensor, "zero_stage": zero_stage}
    config = make_config(rows, tmp_path / "run", parallel=parallel, schedule=SCHEDULE)
    run_ranks(pretrain, tensor * dp_size, config)
    assert metrics(config, "loss") == pytest.approx(metrics(whole, "loss"), abs=1e-6, rel=1e-6)


@pytest.fixture(scope="module")
def half_done(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("half")
    half = make_config(rows, folder, schedule=SCHEDULE, total_rows=160, parallel={"tensor": 2})
    run_ranks(pretrain, 2, half)
    return half


def test_loader_workers_change_nothing(rows: Path, one_rank: TrainConfig, tmp_path: Path) -> None:
    config = make_config(rows, tmp_path / "run", workers=2)
    run_ranks(pretrain, 1, config)
    assert_same_bits(final_state(one_rank), final_state(config))


def test_a_run_with_frozen_parts_resumes_and_keeps_them(rows: Path, tmp_path: Path) -> None:
    model: dict[str, Any] = {
        "num_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "max_row_tokens": 32,
    }
    model["frozen"] = {"type": "lower", "num_layers": 1}
    whole = make_config(rows, tmp_path / "whole", model=model)
    run_ranks(pretrain, 1, whole)
    parts = make_config(rows, tmp_path / "parts", model=model, checkpoint={"every_steps": 10})
    run_ranks(pretrain_until_signalled, 1, parts, 7)
    run_ranks(pretrain, 1, parts)
    state = final_state_of_weights(whole)
    assert_same_bits(state, final_state_of_weights(parts))
    schedule = {"type": "linear", "warmup_rows": 16}
    start = make_config(rows, tmp_path / "start", model=model, total_rows=32, schedule=schedule)
    run_ranks(pretrain, 1, start)
    first = final_state_of_weights(start)
    for name, tensor in state.items():
        is_frozen = "embeddings" in name or "layers.0." in name
        assert torch.equal(tensor, first[name]) == is_frozen, name


def final_state_of_weights(config: TrainConfig) -> dict[str, torch.Tensor]:
    checkpoint, problems = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None, problems
    reader = TensorReader(checkpoint)
    return {name: reader.full("weight", name) for name in checkpoint.manifest.parameters}
