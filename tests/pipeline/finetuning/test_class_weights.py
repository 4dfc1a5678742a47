"""Class weights: given, or balanced over the training file."""

from pathlib import Path
from typing import Any

import pytest
import torch

from configs.load import UserError
from model.task_heads import _cross_entropy
from pipeline.finetuning.class_weights import class_weights, count_labels
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
from tests.pipeline.training_run import metrics


def weighted(pretrained: TrainConfig, output: Path, **changes: Any) -> FinetuneConfig:
    """One classification of words that are rare and frequent."""
    texts = ["the cat"] * 12 + ["the dog"] * 6 + ["the hat"] * 5 + ["the rat"]
    output.parent.mkdir(parents=True, exist_ok=True)
    train = write_lines(
        output.parent / "train.jsonl", [{"text": t, "label": t.split()[1]} for t in texts]
    )
    task = make_tasks(output.parent / "tasks")["animal"]
    task = {**task, "train": str(train), "dev": None, "examples_per_step": 24, **changes}
    return make_finetune_config(
        pretrained, output, tasks={"animal": task}, mlm=None, steps=2, model={"hidden_dropout": 0}
    )


def test_the_loss_is_weighted_and_divided_by_the_labels() -> None:
    scores = torch.tensor([[1.0, 2.0], [0.5, -1.0], [0.0, 0.0]])
    labels = torch.tensor([1, 0, -100])
    loss, count, right = _cross_entropy(scores, labels, (0.5, 3.0))
    each = -scores.log_softmax(dim=1)
    assert loss == pytest.approx(float(3 * each[0, 1] + 0.5 * each[1, 0]))
    assert (int(count), int(right)) == (2, 2)


def test_balanced_weights_are_those_of_scikit_learn(
    pretrained: TrainConfig, tmp_path: Path
) -> None:
    config = weighted(pretrained, tmp_path / "run", class_weights="balanced")
    plan = plan_finetuning(config, 1, is_first=True)
    assert plan.class_weights["animal"] == (24 / 48, 24 / 24, 24 / 20, 24 / 4)
    assert any("class weights: cat 0.5, dog 1, hat 1.2, rat 6" in x for x in plan.summary_lines(0))
    counts = count_labels(plan.train["animal"].examples, 4)
    assert counts.tolist() == [12, 6, 5, 1]


def test_words_are_counted_where_words_have_labels(pretrained: TrainConfig, tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "tasks")
    tags = {**tasks["tags"], "class_weights": {"no": 1, "yes": 2.5}}
    config = make_finetune_config(pretrained, tmp_path / "run", tasks={"tags": tags}, mlm=None)
    plan = plan_finetuning(config, 1, is_first=True)
    assert plan.class_weights == {"tags": (1.0, 2.5)}
    balanced = config.tasks["tags"].model_copy(update={"class_weights": "balanced"})
    words = count_labels(plan.train["tags"].examples, 2)
    assert words.sum() > len(plan.train["tags"].examples)
    found = class_weights(balanced, plan.train["tags"])
    assert found == pytest.approx(tuple(words.sum() / (2 * words)))


def test_weights_change_the_training_alike_on_two_ranks(
    pretrained: TrainConfig, tmp_path: Path
) -> None:
    losses = {}
    for name, ranks, weights in (
        ("plain", 1, None),
        ("one", 1, {"cat": 3, "dog": 3, "hat": 3, "rat": 3}),
        ("two", 2, {"cat": 3, "dog": 3, "hat": 3, "rat": 3}),
        ("balanced", 1, "balanced"),
    ):
        config = weighted(pretrained, tmp_path / name / "run", class_weights=weights)
        run_ranks(run_finetuning, ranks, config)
        losses[name] = metrics(config, "loss")
    assert losses["one"][0] == pytest.approx(3 * losses["plain"][0])
    assert losses["two"] == pytest.approx(losses["one"], rel=2e-5)
    assert losses["balanced"][0] != pytest.approx(losses["plain"][0], rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_weights": {"cat": 1, "dog": 1}}, "one for each label; missing hat, rat"),
        (
            {"class_weights": {"cat": 1, "dog": 1, "hat": 1, "rat": 1, "cow": 1}},
            "one for each label; unknown cow",
        ),
        ({"class_weights": {"cat": 0, "dog": 1, "hat": 1, "rat": 1}}, "greater than 0"),
        (
            {"class_weights": "balanced", "labels": ["cat", "dog", "hat", "rat", "cow"]},
            "class_weights balanced: no example of cow: remove it from labels",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(
    pretrained: TrainConfig, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        plan_finetuning(weighted(pretrained, tmp_path / "run", **changes), 1, is_first=True)
