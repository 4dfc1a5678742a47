"""From a fine-tuned run to the next task: which heads are taken, and that they are."""

from pathlib import Path
from typing import Any

import pytest

from configs.load import ConfigError
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.plan import plan_finetuning
from pipeline.run.config import TrainConfig
from tests.gloo import run_ranks
from tests.pipeline.finetuning.finetune_run import (
    make_finetune_config,
    make_tasks,
    run_finetuning,
    write_lines,
)
from tests.pipeline.finetuning.test_finetune import final_state_weights


@pytest.fixture(scope="module")
def finetuned(pretrained: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    """A finished run on all five tasks."""
    config = make_finetune_config(
        pretrained, tmp_path_factory.mktemp("first") / "run", steps=2, optimizer={"lr": 1e-2}
    )
    run_ranks(run_finetuning, 1, config)
    return config


def next_run(finetuned: FinetuneConfig, output: Path, **changes: Any) -> FinetuneConfig:
    """A run on two labels of animals, a new task, and on the tags of the first run."""
    tasks = make_tasks(output.parent / "tasks")
    lines = [{"text": "the cat", "label": "cat"}, {"text": "the dog", "label": "other"}]
    file = str(write_lines(output.parent / "pet.jsonl", lines))
    labels = ["other", "cat"]
    pet = {"type": "classification", "labels": labels, "train": file, "examples_per_step": 2}
    heads = {"pet": "animal", **changes.pop("heads", {})}
    tree = {
        "start": {"type": "run", "path": str(finetuned.output), "heads": heads},
        "tasks": {"pet": pet, "tags": tasks["tags"], "size": tasks["length"]},
        "mlm": None,
        "steps": 1,
        "schedule": {"type": "constant"},
        "optimizer": {"lr": 1e-9},  # the weights that are saved are those that it starts from
        **changes,
    }
    return make_finetune_config(_as_base(finetuned), output, **tree)


def _as_base(config: Any) -> Any:
    return type("Base", (), {"output": config.output, "data": config.mlm.data})


@pytest.mark.parametrize(("ranks", "parallel"), [(1, {}), (2, {"tensor": 2, "zero_stage": 3})])
def test_heads_are_taken_row_by_row_of_their_labels(
    finetuned: FinetuneConfig, tmp_path: Path, ranks: int, parallel: dict[str, int]
) -> None:
    config = next_run(finetuned, tmp_path / "run", parallel=parallel)
    run_ranks(run_finetuning, ranks, config)
    before, after = final_state_weights(finetuned), final_state_weights(config)
    animal, pet = (before["task_heads.animal.output.weight"], after["task_heads.pet.output.weight"])
    assert pet[1] == pytest.approx(animal[0], abs=1e-6)  # cat
    assert (pet[0] - animal).abs().amax(dim=1).min() > 1e-3  # other: at random
    for name in (
        "task_heads.tags.output.weight",
        "pooler.dense.weight",
        "task_heads.tags.output.bias",
    ):
        assert after[name] == pytest.approx(before[name], abs=1e-6), name
    length = before["task_heads.length.output.weight"]
    assert (after["task_heads.size.output.weight"] - length).abs().max() > 1e-3


def test_the_plan_says_what_is_taken(finetuned: FinetuneConfig, tmp_path: Path) -> None:
    config = next_run(finetuned, tmp_path / "run", heads={"tags": None})
    lines = plan_finetuning(config, 1, is_first=True).summary_lines(0)
    assert "  pet: its head starts from that of animal, but for other, at random" in lines
    assert any(
        line.startswith("  tags: its head starts at random (the start has") for line in lines
    )
    mapped = {"pet": {"task": "animal", "labels": {"other": "dog"}}}
    config = next_run(finetuned, tmp_path / "mapped", heads=mapped)
    plan = plan_finetuning(config, 1, is_first=True)
    assert plan.taken_heads["pet"].rows == (1, 0)
    assert set(plan.taken_heads) == {"pet", "tags"}


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({"pet": "mnli"}, "start.heads.pet: the start has no task mnli; its tasks: animal, length"),
        ({"pet": "tags"}, "start.heads.pet: tags is token_classification, the task here"),
        ({"cow": "animal"}, "start.heads.cow: not one of the tasks"),
        ({"size": {"task": "length", "labels": {"a": "b"}}}, "labels: a regression has none"),
        (
            {"pet": {"task": "animal", "labels": {"other": "cow"}}},
            "labels: cow: not known; here are other, cat, in animal cat, dog, hat, rat",
        ),
    ],
)
def test_heads_that_do_not_fit_are_named(
    finetuned: FinetuneConfig, tmp_path: Path, heads: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_finetuning(next_run(finetuned, tmp_path / "run", heads=heads), 1, is_first=True)


def test_a_pretrained_start_has_no_heads(pretrained: TrainConfig, tmp_path: Path) -> None:
    start = {"type": "run", "path": str(pretrained.output), "heads": {"animal": "mnli"}}
    config = make_finetune_config(pretrained, tmp_path / "run", start=start)
    with pytest.raises(ConfigError, match="its tasks: none: the start is no fine-tuned run"):
        plan_finetuning(config, 1, is_first=True)
