"""Fine-tuning: six tasks and masked language modelling in one run, equal at every grid."""

import dataclasses
import functools
import itertools
import os
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from torch import Tensor

from pipeline.checkpoint.manifest import find_checkpoint
from pipeline.checkpoint.reader import TensorReader
from pipeline.engine.deepspeed_engine import Engine
from pipeline.engine.step import StepResult
from pipeline.finetuning import loop
from pipeline.finetuning.batches import FinetuneStep
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.step import finetuning_step
from pipeline.run.config import RunConfig, TrainConfig
from pipeline.run.run_folder import checkpoints_folder, is_done
from pipeline.tracking.event_log import LOG_NAME, read_events
from tests.gloo import RankError, run_ranks
from tests.pipeline.finetuning.finetune_run import (
    make_finetune_config,
    make_tasks,
    run_finetuning,
)
from tests.pipeline.training_run import assert_same_bits, final_state, metrics

HEADS = ["animal", "length", "tags", "where", "next", "inside", "mlm"]


@pytest.fixture(scope="module")
def one_rank(pretrained: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    """All heads together on one rank."""
    config = make_finetune_config(pretrained, tmp_path_factory.mktemp("one") / "run")
    run_ranks(run_finetuning, 1, config)
    return config


def evaluated(config: FinetuneConfig) -> dict[str, float]:
    """The last evaluation in the record."""
    events = [event for event, _ in read_events(config.output / LOG_NAME)]
    return {
        name: value
        for event in events
        if event["kind"] == "metrics"
        for name, value in event["values"].items()
        if name.startswith(("dev_", "heldout_"))
    }


def test_all_heads_learn_in_one_run(pretrained: TrainConfig, tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "tasks")
    config = make_finetune_config(
        pretrained,
        tmp_path / "run",
        steps=100,
        optimizer={"lr": 1e-2},
        tasks={
            name: {**task, "weight": 4.0 if name == "inside" else 1.0}
            for name, task in tasks.items()
        },
        model={"hidden_dropout": 0, "attention_dropout": 0, "pooler": {"type": "mean"}},
        evaluate_every_steps=100,
    )
    run_ranks(run_finetuning, 1, config)
    assert is_done(config)
    for name in HEADS:
        losses = metrics(config, f"loss/{name}")
        assert len(losses) == 100
        assert sum(losses[-5:]) < 0.9 * sum(losses[:5]), name
    scores = evaluated(config)
    assert {name.partition("/")[2] for name in scores if name.startswith("dev_")} == set(HEADS[:-1])
    assert scores["dev_accuracy/animal"] > 0.9
    assert scores["dev_accuracy/tags"] > 0.9
    assert scores["dev_exact_match/where"] > 0.9
    assert scores["dev_accuracy/next"] == 1
    assert scores["dev_pearson/length"] > 0.9
    assert scores["dev_micro_f1/inside"] > 0.75
    assert "heldout_loss/a" in scores


@pytest.mark.parametrize(
    ("world_size", "tp_size", "zero_stage"),
    [
        pytest.param(2, 2, 1, id="tp2"),
        pytest.param(2, 1, 3, id="dp2-zero3"),
        pytest.param(2, 1, 1, id="dp2", marks=pytest.mark.slow),
        pytest.param(2, 1, 2, id="dp2-zero2", marks=pytest.mark.slow),
        pytest.param(2, 2, 3, id="tp2-zero3", marks=pytest.mark.slow),
    ],
)
def test_every_grid_trains_alike(
    pretrained: TrainConfig,
    one_rank: FinetuneConfig,
    tmp_path: Path,
    world_size: int,
    tp_size: int,
    zero_stage: int,
) -> None:
    parallel = {"tensor": tp_size, "zero_stage": zero_stage}
    config = make_finetune_config(pretrained, tmp_path / "run", parallel=parallel)
    run_ranks(run_finetuning, world_size, config)
    for name in ("loss", "gradient_norm", *(f"loss/{head}" for head in HEADS)):
        assert metrics(config, name) == pytest.approx(metrics(one_rank, name), rel=2e-5), name
    actual, expected = evaluated(config), evaluated(one_rank)
    assert actual == pytest.approx(expected, rel=1e-4, abs=1e-3)  # a correlation near 0


def stopped_after(config: FinetuneConfig, steps: int) -> None:
    """The run with a stop signal in its step `steps`."""
    taken = itertools.count(1)

    def step(*arguments: Any) -> StepResult:
        if next(taken) == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return finetuning_step(*arguments)

    with mock.patch.object(loop, "finetuning_step", step):
        run_finetuning(config)


@pytest.mark.parametrize("zero_stage", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_stopped_run_resumes_to_the_same_bits(
    pretrained: TrainConfig, tmp_path: Path, zero_stage: int
) -> None:
    parallel = {"zero_stage": zero_stage}
    whole = make_finetune_config(pretrained, tmp_path / "whole", parallel=parallel)
    run_ranks(run_finetuning, 2, whole)
    parts = make_finetune_config(pretrained, tmp_path / "parts", parallel=parallel)
    run_ranks(functools.partial(stopped_after, parts, 2), 2)
    assert not is_done(parts)
    run_ranks(run_finetuning, 2, parts)
    assert_same_bits(final_state(whole), final_state(parts))
    assert metrics(whole, "loss") == metrics(parts, "loss")


def finetune_with_bad_steps(config: FinetuneConfig, bad: range) -> None:
    """The run, in which the steps on rows from `bad` on report gradients that are not finite."""

    def step(engine: Engine, batch: FinetuneStep, *arguments: Any) -> StepResult:
        result = finetuning_step(engine, batch, *arguments)
        is_bad = batch.rows.start_row in bad
        return dataclasses.replace(result, skipped=True) if is_bad else result

    with mock.patch.object(loop, "finetuning_step", step):
        run_finetuning(config)


def test_instability_rolls_back_and_skips_the_steps(
    pretrained: TrainConfig, tmp_path: Path
) -> None:
    config = make_finetune_config(
        pretrained,
        tmp_path / "run",
        stability={"max_skipped_in_a_row": 2},
        checkpoint={"every_steps": 2},
    )
    rows = config.rows_per_step
    run_ranks(finetune_with_bad_steps, 2, config, range(2 * rows, 4 * rows))
    checkpoint, problems = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None, problems
    skipped = checkpoint.manifest.skipped
    assert [(window.start_row, window.end_row) for window in skipped] == [(2 * rows, 4 * rows)]
    assert metrics(config, "rows") == [rows * n for n in (1, 2, 5, 6)]
    assert checkpoint.manifest.step == 4
    assert is_done(config)


def test_instability_that_does_not_end_stops_the_run(
    pretrained: TrainConfig, tmp_path: Path
) -> None:
    stability = {"max_skipped_in_a_row": 1, "max_rollbacks": 1}
    config = make_finetune_config(pretrained, tmp_path / "run", stability=stability)
    with pytest.raises(RankError, match="after 1 rollbacks"):
        run_ranks(finetune_with_bad_steps, 1, config, range(10**9))
    assert not is_done(config)


def test_every_step_has_throughput_and_the_slowest_rank(one_rank: FinetuneConfig) -> None:
    assert all(0 < value <= 1 for value in metrics(one_rank, "model_flops_utilization"))
    for name in ("rows_per_s", "tokens_per_s", "step_s", "forward_s", "data_wait_s"):
        assert min(metrics(one_rank, name)) > 0, name
    assert metrics(one_rank, "slowest_rank") == [0.0] * 6
    tokens = metrics(one_rank, "tokens")
    assert all(one_rank.rows_per_step * 8 <= n <= one_rank.rows_per_step * 32 for n in tokens)


def test_an_overflow_of_fp16_lowers_the_loss_scale_and_is_logged(
    pretrained: TrainConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = make_finetune_config(
        pretrained, tmp_path / "run", precision="fp16", loss_scale={"initial": 2.0**24}, mlm=None
    )
    run_ranks(run_finetuning, 1, config)
    assert metrics(config, "skipped")[0] == 1.0
    assert metrics(config, "loss_scale")[:2] == [2.0**24, 2.0**23]
    output = capfd.readouterr().out
    assert "step 1: overflow at loss scale 16777216, which is halved" in output
    assert "rows/s" in output


def test_without_mlm_its_head_keeps_the_pretrained_weights(
    pretrained: TrainConfig, tmp_path: Path
) -> None:
    config = make_finetune_config(pretrained, tmp_path / "run", mlm=None, steps=2)
    run_ranks(run_finetuning, 1, config)
    before, after = final_state_weights(pretrained), final_state_weights(config)
    assert after["head.dense.weight"].equal(before["head.dense.weight"])
    name = "encoder.layers.0.mlp.up.weight"
    assert not after[name].equal(before[name])


def final_state_weights(config: RunConfig) -> dict[str, Tensor]:
    checkpoint, problems = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None, problems
    reader = TensorReader(checkpoint)
    return {name: reader.full("weight", name) for name in checkpoint.manifest.parameters}
