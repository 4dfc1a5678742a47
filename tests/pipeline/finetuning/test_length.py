"""Epochs beside steps, and tasks that are sampled: which tasks and examples each step takes."""

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.load import ConfigError
from pipeline.finetuning.batches import FinetuneBatches
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.plan import FinetunePlan, plan_finetuning
from pipeline.finetuning.run_config import load_finetuning
from pipeline.finetuning.task_order import TaskOrder
from pipeline.finetuning.task_sampling import SampledTask
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import is_done
from tests.gloo import run_ranks
from tests.pipeline.finetuning.finetune_run import (
    make_finetune_config,
    make_tasks,
    run_finetuning,
)
from tests.pipeline.finetuning.test_finetune import stopped_after
from tests.pipeline.training_run import assert_same_bits, final_state, metrics

SAMPLED = {"type": "sampled", "exponent": 0.5}


def in_epochs(pretrained: TrainConfig, output: Path, **changes: Any) -> FinetuneConfig:
    """A run whose length is given in epochs: 24 examples of each task."""
    return make_finetune_config(pretrained, output, **{"steps": None, "epochs": 1.5, **changes})


@pytest.mark.parametrize(
    ("changes", "steps", "evaluated"),
    [
        ({}, 9, 3),  # 24 examples by 4
        ({"epochs_of": "animal"}, 5, 3),  # 24 by 8, rounded up
        ({"evaluate_every_epochs": 0.5}, 9, 3),
        ({"evaluate_every_epochs": 1, "epochs_of": "length"}, 5, 3),
        ({"epochs": 0.01}, 1, 3),
    ],
)
def test_epochs_become_steps(
    pretrained: TrainConfig, tmp_path: Path, changes: dict[str, Any], steps: int, evaluated: int
) -> None:
    config = in_epochs(pretrained, tmp_path / "run", **changes)
    plan = plan_finetuning(config, 1, is_first=True)
    assert (plan.config.num_steps, plan.config.evaluate_every_steps) == (steps, evaluated)
    assert plan.config.end_row == steps * config.rows_per_step


def test_a_run_in_epochs_ends_resumes_and_knows_that_it_is_done(
    pretrained: TrainConfig, tmp_path: Path
) -> None:
    changes = {"schedule": {"type": "linear", "warmup_share": 0.06}, "epochs_of": "animal"}
    whole = in_epochs(pretrained, tmp_path / "whole", **changes)
    assert not is_done(whole)
    run_ranks(run_finetuning, 1, whole)
    assert is_done(whole)
    assert not is_done(whole.model_copy(update={"epochs": 3.0}))
    assert len(metrics(whole, "loss")) == 5
    parts = in_epochs(pretrained, tmp_path / "parts", **changes)
    run_ranks(functools.partial(stopped_after, parts, 2), 1)
    assert not is_done(parts)
    run_ranks(run_finetuning, 1, parts)
    assert_same_bits(final_state(whole), final_state(parts))
    assert metrics(whole, "learning_rate") == metrics(parts, "learning_rate")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": None}, "steps or epochs: one of them is required"),
        ({"epochs_of": "other"}, "epochs_of other: not one of the tasks animal, length"),
        (
            {"task_sampling": {"type": "sampled", "annealed": True}},
            "epochs does not go with task_sampling.annealed",
        ),
        ({"schedule": {"warmup_rows": 10**6}}, "warmup_rows 1000000 is longer than the schedule"),
    ],
)
def test_a_length_that_does_not_work_is_named(
    pretrained: TrainConfig, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_finetuning(in_epochs(pretrained, tmp_path / "run", **changes), 1, is_first=True)


def test_steps_and_epochs_in_one_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "name: x\noutput: runs/x\nsteps: 5\nepochs: 2\nstart: {type: run, path: runs/y}\n"
        "tasks: {a: {type: regression, train: a.jsonl}}\nevaluate_every_epochs: 1\n"
    )
    with pytest.raises(ConfigError, match="steps 5 and epochs 2: give one of them"):
        load_finetuning(path, ["evaluate_every_steps=7"])
    with pytest.raises(ConfigError, match="evaluate_every_steps 7 and evaluate_every_epochs 1"):
        load_finetuning(path, ["evaluate_every_steps=7"])
    assert load_finetuning(path, ["steps=null"]).epochs == 2


def test_tasks_are_drawn_by_the_power_of_their_sizes() -> None:
    sizes = {"large": 10_000, "small": 100, "smaller": 25}
    for exponent, limit, expected in (
        (1.0, None, [10_000, 100, 25]),
        (0.5, None, [100, 10, 5]),
        (0.0, None, [1, 1, 1]),
        (1.0, 50, [50, 50, 25]),
    ):
        order = TaskOrder(SampledTask(exponent=exponent, limit=limit), sizes, 40_000, seed=3)
        found = np.array([order.num_batches(name) for name in sizes]) / 40_000
        assert found == pytest.approx(np.array(expected) / sum(expected), abs=0.01)
    again = TaskOrder(SampledTask(exponent=0.5), sizes, 100, seed=3)
    longer = TaskOrder(SampledTask(exponent=0.5), sizes, 200, seed=3)
    other = TaskOrder(SampledTask(exponent=0.5), sizes, 100, seed=4)
    drawn = [again.tasks(step) for step in range(100)]
    assert drawn == [longer.tasks(step) for step in range(100)]
    assert drawn != [other.tasks(step) for step in range(100)]


def test_annealed_sampling_ends_with_a_fifth_of_the_exponent() -> None:
    sizes = {"large": 10_000, "small": 1}
    order = TaskOrder(SampledTask(exponent=1, annealed=True), sizes, 40_000, seed=1)
    first = sum(order.tasks(step) == ("large",) for step in range(2000)) / 2000
    last = sum(order.tasks(step) == ("large",) for step in range(38_000, 40_000)) / 2000
    assert first > 0.99
    assert last == pytest.approx(10_000**0.2 / (10_000**0.2 + 1), abs=0.04)


def sampled_plan(pretrained: TrainConfig, output: Path, ranks: int = 1) -> FinetunePlan:
    """Two epochs of tasks that are sampled."""
    config = in_epochs(
        pretrained, output, epochs=2, epochs_of="animal", task_sampling=SAMPLED, mlm=None
    )
    return plan_finetuning(config, ranks, is_first=True)


def test_sampled_tasks_take_every_example_once_an_epoch(
    pretrained: TrainConfig, tmp_path: Path
) -> None:
    plan = sampled_plan(pretrained, tmp_path / "run")
    one = FinetuneBatches(plan, 0)
    steps = [one.step(number) for number in range(plan.config.num_steps)]
    used = [[name for name, count in step.label_counts.items() if count] for step in steps]
    assert all(len(names) == 1 for names in used)
    assert used[-1] == ["animal"]  # the step that completes its epochs is the last
    batches = Counter(name for (name,) in used)
    assert batches["animal"] == 6  # 2 x 24 examples by 8
    rows = plan.config.tasks["animal"].rows_per_example
    assert {step.num_rows for step in steps if step.label_counts["animal"]} == {8 * rows}
    for name in ("animal", "length"):
        numbers = [n for n, names in enumerate(used) if names == [name]]
        seen = [example.line for n in numbers[:3] for example in one._examples(name, n)]
        assert sorted(seen) == list(range(1, 25))[: len(seen)] or len(numbers) < 3
    assert plan.mean_step_rows == sum(step.num_rows for step in steps) / len(steps)
    on_two = [FinetuneBatches(sampled_plan(pretrained, tmp_path / "run", 2), r) for r in (0, 1)]
    for number, step in enumerate(steps):
        parts = [batches.step(number) for batches in on_two]
        assert [part.label_counts for part in parts] == [step.label_counts] * 2
        assert len({len(part.micro_batches) for part in parts}) == 1
        assert len(parts[0].micro_batches) <= on_two[0].per_step


@pytest.mark.parametrize(
    ("tp_size", "zero_stage"),
    [(1, 1), pytest.param(2, 1, marks=pytest.mark.slow), pytest.param(1, 3)],
)
def test_a_sampled_run_resumes_to_the_same_bits_at_every_grid(
    pretrained: TrainConfig, tmp_path: Path, tp_size: int, zero_stage: int
) -> None:
    def config(name: str) -> FinetuneConfig:
        return make_finetune_config(
            pretrained,
            tmp_path / name,
            task_sampling=SAMPLED,
            layerwise_lr_decay=0.8,
            parallel={"tensor": tp_size, "zero_stage": zero_stage},
            tasks={
                name: task
                for name, task in make_tasks(tmp_path / "tasks").items()
                if name in ("animal", "next", "length")
            },
        )

    whole, parts = config("whole"), config("parts")
    run_ranks(run_finetuning, 2, whole)
    run_ranks(functools.partial(stopped_after, parts, 3), 2)
    run_ranks(run_finetuning, 2, parts)
    assert_same_bits(final_state(whole), final_state(parts))
    assert metrics(whole, "loss") == metrics(parts, "loss")
