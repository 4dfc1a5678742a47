"""The planner's memory of fine-tuning: counts against the model's own parameters."""

from pathlib import Path
from typing import Any

import pytest

from configs.load import ConfigError
from model.parallel.grid import single_rank_grid
from pipeline.finetuning.engine import build_finetune_model
from pipeline.finetuning.memory import count_finetuned, estimate_finetuning, widest_batches
from pipeline.finetuning.plan import plan_finetuning
from pipeline.finetuning.plan_report import summarize
from pipeline.planning.request import PlanRequest
from pipeline.planning.text import text_lines
from pipeline.run.config import TrainConfig
from tests.gloo import in_one_rank
from tests.pipeline.finetuning.finetune_run import make_finetune_config, make_tasks


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mlm": None},
        {"mlm": None, "model": {"frozen": {"type": "lower", "num_layers": 1}}},
        {"mlm": None, "model": {"frozen": {"type": "all_but_last", "num_layers": 1}}},
    ],
    ids=str,
)
@in_one_rank
def test_parameters_are_those_of_the_model(
    pretrained: TrainConfig, tmp_path: Path, changes: dict[str, Any]
) -> None:
    tasks = make_tasks(tmp_path / "tasks")
    kept = {name: tasks[name] for name in ("animal", "tags", "where")}
    config = make_finetune_config(pretrained, tmp_path / "run", tasks=kept, **changes)
    plan = plan_finetuning(config, 1, is_first=True)
    with single_rank_grid() as grid:
        model = build_finetune_model(plan, grid, 0)
    found = count_finetuned(plan)
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    rows = config.compute.padded_vocab_size(plan.start.vocab_size) - plan.start.vocab_size
    padding = rows * plan.model.hidden_size
    frozen = "model" in changes  # then the vectors are, padding included
    assert found.total == pytest.approx(total - padding, rel=0.01)
    assert found.trained == pytest.approx(trained - (0 if frozen else padding), rel=0.02)


def test_frozen_parts_and_zero_need_less(pretrained: TrainConfig, tmp_path: Path) -> None:
    def estimate(ranks: int = 1, **changes: Any) -> Any:
        config = make_finetune_config(pretrained, tmp_path / "run", **{"mlm": None, **changes})
        return estimate_finetuning(plan_finetuning(config, ranks, is_first=True))

    full = estimate()
    frozen = estimate(model={"frozen": {"type": "all_but_last", "num_layers": 1}})
    assert frozen.weights == full.weights
    assert frozen.optimizer < 0.7 * full.optimizer
    assert frozen.activations == pytest.approx(full.activations / 2, rel=0.01)
    assert estimate(ranks=2).optimizer == full.optimizer / 2
    assert estimate(micro_rows=2).activations < full.activations
    smart = estimate(adversarial={"type": "smart"})
    assert smart.activations == 2 * full.activations


@in_one_rank
def test_ranks_on_cpus_keep_frozen_weights_twice(pretrained: TrainConfig, tmp_path: Path) -> None:
    """In the format of the run, and in fp32 for checkpoints."""
    model = {"frozen": {"type": "all_but_last", "num_layers": 1}}
    config = make_finetune_config(pretrained, tmp_path / "run", mlm=None, model=model)
    plan = plan_finetuning(config, 2, is_first=True)
    found = count_finetuned(plan)
    more = estimate_finetuning(plan, on_cpu=True).weights - estimate_finetuning(plan).weights
    assert more == 4 * (found.total - found.trained)
    with single_rank_grid() as grid:
        parameters = list(build_finetune_model(plan, grid, 0).parameters())
    frozen = sum(p.numel() for p in parameters if not p.requires_grad)
    vocab_size = config.compute.padded_vocab_size(plan.start.vocab_size)
    padding = (vocab_size - plan.start.vocab_size) * plan.model.hidden_size
    assert more == pytest.approx(4 * (frozen - padding), rel=0.02)


def test_the_longest_row_decides(pretrained: TrainConfig, tmp_path: Path) -> None:
    config = make_finetune_config(pretrained, tmp_path / "run")
    plan = plan_finetuning(config, 1, is_first=True)
    batches = {name: (rows, width) for name, rows, width, _ in widest_batches(plan)}
    assert batches["mlm"] == (8, 32)
    longest = max(len(row) for e in plan.train["length"].examples for row in e.rows)
    assert longest <= batches["length"][1] < longest + 8
    assert batches["next"][0] == 8


def test_what_does_not_fit_is_refused(pretrained: TrainConfig, tmp_path: Path) -> None:
    config = make_finetune_config(pretrained, tmp_path / "run", mlm=None)
    lines = list(text_lines(summarize(config, PlanRequest(gpu_memory_gb=80, tokens_per_s=1000))))
    assert any(line.startswith("parameters ") and "memory about 2.5 GB" in line for line in lines)
    assert any(line.startswith("largest micro-batch: 8 rows") for line in lines)
    assert any(line.startswith("time about 0.00 h") for line in lines)
    with pytest.raises(ConfigError, match=r"does not fit: 2\.5 GB an accelerator: .* has 1 GB"):
        summarize(config, PlanRequest(gpu_memory_gb=1))
    swept = make_finetune_config(
        pretrained, tmp_path / "run", mlm=None, sweep={"lr": [1e-3, 1e-2], "seeds": 3}
    )
    heading = summarize(swept, PlanRequest()).heading
    assert heading[0] == "sweep: 2 settings, 3 seeds: 6 children"
