"""Fine-tuning: five tasks and masked language modelling in one run, equal on every grid."""

import functools
import itertools
import os
import signal
from typing import Any

import pytest

from pipeline.engine.step import StepResult
from pipeline.finetuning import loop
from pipeline.finetuning.config import FinetuneConfig
from pipeline.run.run_folder import is_done
from pipeline.tracking.event_log import LOG_NAME, read_events
from tests.gloo import run_ranks
from tests.pipeline.finetuning.finetune_run import (
    make_finetune_config,
    make_pretrained,
    run_finetuning,
)
from tests.pipeline.training_run import assert_same_bits, final_state, metrics

HEADS = ["animal", "length", "tags", "where", "next", "mlm"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return make_pretrained(tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(scope="module")
def one_rank(pretrained, tmp_path_factory):
    """All heads together on one rank."""
    config = make_finetune_config(pretrained, tmp_path_factory.mktemp("one") / "run")
    run_ranks(run_finetuning, 1, config)
    return config


def evaluated(config) -> dict[str, float]:
    """The last evaluation in the record."""
    events = [event for event, _ in read_events(config.output / LOG_NAME)]
    return {
        name: value
        for event in events
        if event["kind"] == "metrics"
        for name, value in event["values"].items()
        if name.startswith(("dev_", "heldout_"))
    }


def test_all_heads_learn_in_one_run(pretrained, tmp_path):
    config = make_finetune_config(
        pretrained,
        tmp_path / "run",
        steps=100,
        optimizer={"lr": 5e-3},
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
def test_every_grid_trains_alike(pretrained, one_rank, tmp_path, world_size, tp_size, zero_stage):
    parallel = {"tensor": tp_size, "zero_stage": zero_stage}
    config = make_finetune_config(pretrained, tmp_path / "run", parallel=parallel)
    run_ranks(run_finetuning, world_size, config)
    for name in ("loss", "gradient_norm", *(f"loss/{head}" for head in HEADS)):
        assert metrics(config, name) == pytest.approx(metrics(one_rank, name), rel=2e-5), name
    actual, expected = evaluated(config), evaluated(one_rank)
    assert actual == pytest.approx(expected, rel=1e-4, abs=1e-3)  # a correlation near 0


def stopped_after(config: FinetuneConfig, steps: int) -> None:
    """The run with a stop signal in its step `steps`."""
    real = loop.finetuning_step
    taken = itertools.count(1)

    def step(*arguments: Any) -> StepResult:
        if next(taken) == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    loop.finetuning_step = step
    run_finetuning(config)


@pytest.mark.parametrize("zero_stage", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on_to_the_same_bits(pretrained, tmp_path, zero_stage):
    parallel = {"zero_stage": zero_stage}
    whole = make_finetune_config(pretrained, tmp_path / "whole", parallel=parallel)
    run_ranks(run_finetuning, 2, whole)
    parts = make_finetune_config(pretrained, tmp_path / "parts", parallel=parallel)
    run_ranks(functools.partial(stopped_after, parts, 2), 2)
    assert not is_done(parts)
    run_ranks(run_finetuning, 2, parts)
    assert_same_bits(final_state(whole), final_state(parts))
    assert metrics(whole, "loss") == metrics(parts, "loss")


def test_without_mlm_its_head_keeps_the_pretrained_weights(pretrained, tmp_path):
    config = make_finetune_config(pretrained, tmp_path / "run", mlm=None, steps=2)
    run_ranks(run_finetuning, 1, config)
    before, after = final_state_weights(pretrained), final_state_weights(config)
    assert after["head.dense.weight"].equal(before["head.dense.weight"])
    name = "encoder.layers.0.mlp.up.weight"
    assert not after[name].equal(before[name])


def final_state_weights(config):
    from pipeline.checkpoint.manifest import find_checkpoint
    from pipeline.checkpoint.reader import TensorReader
    from pipeline.run.run_folder import checkpoints_folder

    checkpoint, problems = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None, problems
    reader = TensorReader(checkpoint)
    return {name: reader.full("weight", name) for name in checkpoint.manifest.parameters}
