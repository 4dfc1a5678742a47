"""Ranks killed at random moments, also during saves: the result is that of an uninterrupted run."""

import itertools
import os
import random
import re
import signal
import statistics
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch.distributed as dist

from configs.load import UserError
from data_prep.dataset.manifest import read_manifest
from data_prep.dataset.verify import verify_shards
from pipeline.engine.step import StepResult
from pipeline.pretraining import loop
from pipeline.pretraining.step import pretraining_step
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

MAX_STEPS_BETWEEN = 10
FLIPS = 200


def pretrain_until_killed(config: TrainConfig, victim: int, num_steps: int, seconds: float) -> None:
    """Trains; rank `victim` kills itself `seconds` after it has taken `num_steps` steps more."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    taken = itertools.count(1)

    def step(*arguments: Any) -> StepResult:
        result = pretraining_step(*arguments)
        if next(taken) == num_steps:
            timer.start()
        return result

    if dist.get_rank() != victim:
        return pretrain(config)
    if num_steps == 0:
        timer.start()
    with mock.patch.object(loop, "pretraining_step", step):
        pretrain(config)


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_change_no_bit(tmp_path: Path, kills: int) -> None:
    make_rows(tmp_path / "rows")
    settings: dict[str, Any] = {
        "total_rows": kills * (MAX_STEPS_BETWEEN + 2) * 16,
        "precision": "bf16",
        "parallel": {"tensor": 2},
        "checkpoint": {"every_steps": 3},
        "evaluation": {"every_steps": 40, "rows_per_source": 4},
    }
    whole = make_config(tmp_path / "rows", tmp_path / "whole", **settings)
    started_at = time.monotonic()
    run_ranks(pretrain, 2, whole)
    step_s = statistics.median(metrics(whole, "step_s"))
    start_s = time.monotonic() - started_at - sum(metrics(whole, "step_s"))
    killed = make_config(tmp_path / "rows", tmp_path / "killed", **settings)
    generator = random.Random(1)
    in_saves = 0
    for _ in range(kills):
        num_steps = generator.randrange(MAX_STEPS_BETWEEN)
        seconds = generator.uniform(0.0, 2 * step_s if num_steps else start_s)
        victim = generator.randrange(2)
        with pytest.raises(RankError):
            run_ranks(pretrain_until_killed, 2, killed, victim, num_steps, seconds)
        in_saves += any(checkpoints_folder(killed).glob(".saving-*"))
    assert not is_done(killed)
    assert in_saves or kills < 20, "no kill hit a save"
    run_ranks(pretrain, 2, killed)
    assert is_done(killed)
    assert_same_bits(final_state(whole), final_state(killed))
    assert metrics(killed, "loss") == metrics(whole, "loss")


def test_every_flipped_byte_and_truncation_of_a_shard_is_found(tmp_path: Path) -> None:
    make_rows(tmp_path)
    manifest = read_manifest(tmp_path)
    sources = [source for split in manifest.splits.values() for source in split.values()]
    shards = [shard for source in sources for shard in source.shards]
    generator = random.Random(2)
    for number in range(FLIPS):
        path = tmp_path / generator.choice(shards).path
        content = path.read_bytes()
        place = generator.randrange(len(content))
        if number % 4:
            damaged = bytearray(content)
            damaged[place] ^= generator.randrange(1, 256)
        else:
            damaged = bytearray(content[:place])
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=re.escape(path.name)):
            verify_shards(tmp_path, manifest, full=True)
        path.write_bytes(content)
    verify_shards(tmp_path, manifest, full=True)


def test_a_global_batch_of_8192_rows(tmp_path: Path) -> None:
    make_rows(tmp_path / "rows")
    config = make_config(
        tmp_path / "rows",
        tmp_path / "run",
        total_rows=2 * 8192,
        model={
            "num_layers": 1,
            "hidden_size": 16,
            "num_attention_heads": 2,
            "max_row_tokens": 32,
        },
        batch={"global_rows": 8192, "micro_rows": 256},
        schedule={"type": "constant"},
        parallel={"zero_stage": 2},
    )
    run_ranks(pretrain, 2, config)
    assert metrics(config, "rows") == [8192, 16384]
    # 32 ids a row, two of them special, and rows of 4 topics: always round(0.15 x 30) masks
    assert metrics(config, "masked_tokens") == [8192 * 5, 8192 * 5]
