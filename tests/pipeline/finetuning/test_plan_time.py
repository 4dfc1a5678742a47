"""What the planner says of the time of fine-tuning, and of other layouts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.finetuning.batches import FinetuneBatches
from pipeline.finetuning.examples import RowLengths
from pipeline.finetuning.plan import plan_finetuning
from pipeline.finetuning.plan_report import summarize
from pipeline.finetuning.plan_time import mean_width, model_flops, run_time, steps_of
from pipeline.finetuning.step import step_flops
from pipeline.planning.accelerators import find_accelerator
from pipeline.planning.json_plan import plan_json
from pipeline.planning.page import plan_page
from pipeline.planning.request import PlanRequest
from pipeline.planning.step_time import Rates
from pipeline.planning.text import text_lines
from pipeline.run.config import TrainConfig
from tests.pipeline.finetuning.finetune_run import make_finetune_config, make_tasks

H100 = Rates(find_accelerator("h100-80gb"))


def test_the_mean_width_of_random_examples() -> None:
    lengths = [5, 7, 9, 20]  # padded to 8, 8, 16 and, in a model of so many tokens, 20
    longest = RowLengths(*np.unique(lengths, return_counts=True))
    draws = np.random.default_rng(0).choice([8, 8, 16, 20], (20_000, 3)).max(axis=1)
    assert mean_width(longest, 3, 20) == pytest.approx(draws.mean(), abs=0.1)
    assert mean_width(longest, 1, 20) == 13
    assert mean_width(RowLengths(np.array([9]), np.array([4])), 4, 512) == 16


@pytest.mark.parametrize(
    "changes",
    [{}, {"task_sampling": {"type": "sampled"}}, {"micro_rows": 3}],
    ids=["all tasks", "one task a step", "sizes that do not divide"],
)
def test_micro_batches_are_those_of_the_run(
    pretrained: TrainConfig, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Their number and rows exactly, their tokens and operations nearly: widths are means."""
    config = make_finetune_config(pretrained, tmp_path / "run", **changes)
    plan = plan_finetuning(config, 1, is_first=True)
    steps = [FinetuneBatches(plan, 0).step(number) for number in range(config.num_steps)]
    planned = steps_of(plan)
    assert sum(step.num_steps for step in planned) == config.num_steps
    heads = [(head, step.num_steps) for step in planned for head in step.heads]
    rows = [h.rows for h, times in heads for _ in range(h.micro_batches * times)]
    widths = [width for step in steps for width in step.widths]
    assert sorted(rows) == sorted(number for number, _ in widths)
    tokens = sum(h.rows * h.width * h.micro_batches * times for h, times in heads)
    assert tokens == pytest.approx(sum(step.num_tokens for step in steps), rel=0.1)
    flops = sum(step_flops(plan, step) for step in steps)
    assert model_flops(plan) == pytest.approx(flops, rel=0.15)


def test_the_rank_with_most_decides(pretrained: TrainConfig, tmp_path: Path) -> None:
    """Seven micro-batches in the steps of one task and four in those of the other, on four ranks:
    two and one, and not as many as their mean of 5.5."""
    tasks = make_tasks(tmp_path / "tasks")
    chosen = {
        "animal": {**tasks["animal"], "examples_per_step": 7},
        "length": {**tasks["length"], "examples_per_step": 4},
    }
    sampled = {"tasks": chosen, "mlm": None, "task_sampling": {"type": "sampled"}}
    config = make_finetune_config(pretrained, tmp_path / "run", micro_rows=1, steps=40, **sampled)
    times = {
        ranks: run_time(plan_finetuning(config, ranks, is_first=True), 1, ranks, H100)
        for ranks in (1, 4)
    }
    numbers = [7, 4]
    steps = [step.num_steps for step in steps_of(plan_finetuning(config, 1, is_first=True))]
    assert min(steps) > 0
    all_batches = sum(n * number for n, number in zip(steps, numbers, strict=True))
    of_slowest = sum(n * -(-number // 4) for n, number in zip(steps, numbers, strict=True))
    expected = times[1].host * of_slowest / all_batches
    assert times[4].host == pytest.approx(expected, rel=0.05)


def test_more_ranks_share_the_micro_batches(pretrained: TrainConfig, tmp_path: Path) -> None:
    def seconds(ranks: int, **changes: Any) -> float:
        config = make_finetune_config(pretrained, tmp_path / "run", **{"mlm": None, **changes})
        plan = plan_finetuning(config, ranks, is_first=True)
        time = run_time(plan, 1, ranks, H100)
        return time.matrix + time.traffic + time.host

    one = seconds(1, micro_rows=4)
    assert seconds(2, micro_rows=4) == pytest.approx(one / 2, rel=0.15)
    assert seconds(1, micro_rows=8) < one  # fewer kernels
    frozen = {"frozen": {"type": "all_but_last", "num_layers": 1}}
    assert seconds(1, micro_rows=4, model=frozen) < one
    assert seconds(1, micro_rows=4, adversarial={"type": "freelb"}) == pytest.approx(
        2 * one, rel=0.1
    )


def test_the_plan_has_time_cost_and_layouts(pretrained: TrainConfig, tmp_path: Path) -> None:
    config = make_finetune_config(pretrained, tmp_path / "run", micro_rows=4)
    request = PlanRequest(1, 2, accelerator=H100.accelerator, price_per_gpu_hour=2.0)
    plan = summarize(config, request)
    lines = list(text_lines(plan))
    assert any(line.startswith("a step takes ") and " host " in line for line in lines)
    assert any(line.startswith("fastest layout that fits: micro_rows=") for line in lines)
    assert not any(line.startswith("accelerators are useful") for line in lines)
    found = json.loads(plan_json(plan))
    assert found["layouts"]["overrides"]["micro_rows"] > 4
    assert plan.comparison is not None
    best = plan.comparison.best
    assert best is not None
    taken = make_finetune_config(
        pretrained, tmp_path / "run", micro_rows=found["layouts"]["overrides"]["micro_rows"]
    )
    again = summarize(taken, request)
    assert again.step_time.total == pytest.approx(best.time.total)
    assert again.comparison is not None
    assert again.comparison.overrides == {}
    assert found["scaling"]["points"] == []
    assert found["cost"]["hours"] == pytest.approx(plan.step_time.total / 3600)
    page = plan_page(plan)
    assert 'id="layouts"' in page
    assert 'id="scaling"' not in page


def test_frozen_weights_are_saved_without_moments(pretrained: TrainConfig, tmp_path: Path) -> None:
    model = {"frozen": {"type": "all_but_last", "num_layers": 1}}
    config = make_finetune_config(pretrained, tmp_path / "run", mlm=None, model=model)
    plan = summarize(config, PlanRequest())
    frozen = plan.parameters - plan.trained_parameters
    assert plan.checkpoint_bytes == 12 * plan.trained_parameters + 4 * frozen


def test_ranks_on_cpus_are_processes(pretrained: TrainConfig, tmp_path: Path) -> None:
    config = make_finetune_config(pretrained, tmp_path / "run", mlm=None)
    lines = list(text_lines(summarize(config, PlanRequest(on_cpu=True))))
    assert any("memory about 0.6 GB a rank: " in line for line in lines)
