"""A stop signal in the middle of a step: all ranks leave at one micro-batch, and no bit changes."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from pipeline.checkpoint.manifest import find_checkpoint
from pipeline.launch.rendezvous import launch_store
from pipeline.launch.signals import StopRequest
from pipeline.launch.stop_agreement import StopAgreement
from pipeline.pretraining.step import MaskedMicroBatch
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import checkpoints_folder, is_done
from tests.gloo import RankError, run_ranks
from tests.pipeline.training_run import (
    assert_same_bits,
    final_state,
    make_config,
    make_rows,
    metrics,
    pretrain,
)

NUM_MICRO_BATCHES = 32
SLOW_S = 0.1
"""Seconds of a micro-batch of the step that is interrupted: the whole step takes 3 s."""


def leave_at(signalled: int, lead: int) -> int:
    """The micro-batches that this rank starts, of which the last rank starts `lead` more at once.

    There is no communication in them, as under ZeRO 1, and only rank `signalled` gets a signal.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    agreement = StopAgreement(StopRequest(), launch_store(), rank, world_size)
    num_started, store = 0, launch_store()
    with agreement.watching():
        while not agreement.leaves_step():
            num_started += 1
            if num_started == lead and rank == world_size - 1:
                store.set("ahead", "1")
            if num_started == 1 and rank == signalled:
                if rank < world_size - 1:
                    store.wait(["ahead"])
                os.kill(os.getpid(), signal.SIGTERM)
            if not (rank == world_size - 1 and num_started < lead):
                time.sleep(0.01)
    return num_started


@pytest.mark.parametrize("signalled", [0, 2])
def test_all_ranks_leave_where_the_foremost_is(signalled: int) -> None:
    counts = run_ranks(leave_at, 3, signalled, 300)
    assert len(set(counts)) == 1
    assert counts[0] >= (300 if signalled == 0 else 1)


def leave_while_a_peer_waits() -> int:
    """As under ZeRO 2: each micro-batch has a collective, in which the rank ahead waits."""
    rank = dist.get_rank()
    agreement = StopAgreement(StopRequest(), launch_store(), rank, dist.get_world_size())
    num_started = 0
    with agreement.watching():
        while not agreement.leaves_step():
            num_started += 1
            if num_started == 3 and rank == 1:
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.02 if rank else 0.0)
            dist.all_reduce(torch.ones(1))
    return num_started


def test_no_rank_leaves_peers_in_a_collective() -> None:
    first, second = run_ranks(leave_while_a_peer_waits, 2)
    assert first == second


def leave_after_a_rollback() -> int:
    """A run that rolls back makes a second block; rank 1 ends the first before it has agreed."""
    rank = dist.get_rank()
    agreement = StopAgreement(StopRequest(), launch_store(), rank, dist.get_world_size())
    num_started = 0
    with agreement.watching():
        for _ in range(20):
            assert not agreement.leaves_step()
            num_started += 1
        if rank == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
    dist.barrier()
    with agreement.watching():
        while not agreement.leaves_step():
            num_started += 1
            time.sleep(0.01 * rank)
            dist.all_reduce(torch.ones(1))
    return num_started


def test_a_stop_is_agreed_on_across_a_rollback() -> None:
    first, second = run_ranks(leave_after_a_rollback, 2)
    assert first == second >= 20


def agree_without_rank_1() -> None:
    agreement = StopAgreement(StopRequest(), launch_store(), dist.get_rank(), 2)
    if dist.get_rank() == 1:
        time.sleep(2)
        return
    os.kill(os.getpid(), signal.SIGTERM)
    with agreement.watching():
        while not agreement.leaves_step():
            time.sleep(0.01)


def test_a_rank_that_is_gone_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.launch.stop_agreement.AGREEMENT_TIMEOUT_S", 0.3)
    with pytest.raises(RankError, match="the ranks did not agree where to stop"):
        run_ranks(agree_without_rank_1, 2)


def pretrain_slowly(config: TrainConfig, slow_step: int, signalled: tuple[int, ...]) -> float:
    """Trains; in `slow_step` the ranks `signalled` get a signal. The seconds from it to the end."""
    forward = MaskedMicroBatch.forward
    taken, signalled_at = 0, 0.0

    def slow(self: MaskedMicroBatch, model: Any, device: torch.device) -> Mapping[str, Any]:
        nonlocal taken, signalled_at
        if model.training:
            taken += 1
        first = (slow_step - 1) * NUM_MICRO_BATCHES
        if taken > first:
            time.sleep(SLOW_S)
        if taken == first + 3 and not signalled_at:
            signalled_at = time.monotonic()
            if dist.get_rank() in signalled:
                os.kill(os.getpid(), signal.SIGINT if dist.get_rank() else signal.SIGTERM)
        return forward(self, model, device)

    with mock.patch.object(MaskedMicroBatch, "forward", slow):
        pretrain(config)
    return time.monotonic() - signalled_at


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder)
    return folder


@pytest.mark.parametrize(
    ("world_size", "parallel", "precision", "signalled"),
    [
        (1, {"zero_stage": 1}, "fp32", (0,)),
        (2, {"zero_stage": 1}, "bf16", (1,)),
        pytest.param(2, {"zero_stage": 2}, "fp32", (0, 1), marks=pytest.mark.slow),
        (2, {"zero_stage": 3}, "fp16", (0,)),
        (2, {"zero_stage": 1, "tensor": 2}, "fp32", (1,)),
    ],
    ids=str,
)
def test_a_long_step_is_left_at_once_and_resumes_to_the_same_bits(
    rows: Path,
    tmp_path: Path,
    world_size: int,
    parallel: dict[str, int],
    precision: str,
    signalled: tuple[int, ...],
) -> None:
    dp_size = world_size // parallel.get("tensor", 1)
    settings: dict[str, Any] = {
        "total_rows": 4 * NUM_MICRO_BATCHES * dp_size,
        "batch": {"global_rows": NUM_MICRO_BATCHES * dp_size, "micro_rows": 1},
        "parallel": parallel,
        "precision": precision,
        "schedule": {"type": "constant"},
        "evaluation": {"every_steps": 100, "rows_per_source": 4},
    }
    whole = make_config(rows, tmp_path / "whole", **settings)
    run_ranks(pretrain, world_size, whole)
    stopped = make_config(rows, tmp_path / "stopped", **settings)
    seconds = run_ranks(pretrain_slowly, world_size, stopped, 3, signalled)
    assert max(seconds) < NUM_MICRO_BATCHES * SLOW_S, "the whole step was taken"
    checkpoint, problems = find_checkpoint(checkpoints_folder(stopped))
    assert checkpoint is not None, problems
    assert checkpoint.manifest.step == 2
    assert metrics(stopped, "loss") == metrics(whole, "loss")[:2]
    assert not is_done(stopped)
    run_ranks(pretrain, world_size, stopped)
    assert is_done(stopped)
    assert_same_bits(final_state(whole), final_state(stopped))
    assert metrics(stopped, "loss") == metrics(whole, "loss")


def test_a_signal_in_the_first_step_saves_nothing(rows: Path, tmp_path: Path) -> None:
    batch = {"global_rows": NUM_MICRO_BATCHES, "micro_rows": 1}
    config = make_config(rows, tmp_path / "run", batch=batch, total_rows=3 * NUM_MICRO_BATCHES)
    run_ranks(pretrain_slowly, 1, config, 1, (0,))
    assert find_checkpoint(checkpoints_folder(config)) == (None, [])
    run_ranks(pretrain, 1, config)
    assert is_done(config)
