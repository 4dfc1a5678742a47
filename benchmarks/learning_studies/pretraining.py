"""Study 1: an encoder that was pretrained, the same network from random weights, linear models.

Each is trained on the tasks of `tasks`. The learning rate of each start and task is the one with
the better dev score of the first seed; its test scores are reported for all seeds.
"""

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.learning_studies.corpora import prepare_corpus, rows_folder, summary
from benchmarks.learning_studies.labelled import read_examples
from benchmarks.learning_studies.launches import Cost, curve, curves, score, train
from benchmarks.learning_studies.linear import linear_scores
from benchmarks.learning_studies.results import Results, Values, side_by_side
from benchmarks.learning_studies.tasks import TASKS, labels_of, task_file

STUDY = "pretraining"
ENCODER = Path(__file__).parent / "encoder.yaml"
SEEDS = (1, 2, 3)
STARTS = ("pretrained", "scratch")
LEARNING_RATES = (5e-4, 1.5e-3)
EXAMPLES_PER_STEP = 32
MAX_EVALUATIONS = 6
NEVER = 10**9
"""Steps between checkpoints that only the best evaluation causes."""


def run(folder: Path, scale: float) -> None:
    """All of the study; `scale` times the rows of pretraining and the epochs of fine-tuning."""
    results = Results(folder, STUDY)
    rows = prepare_corpus(folder, "encoder")
    results.compute("corpus", partial(summary, rows=rows))
    results.compute("encoder", partial(pretrain, rows=rows, scale=scale))
    for seed in SEEDS:
        results.compute(f"random-{seed}", partial(random_weights, rows=rows, seed=seed))
    starts = starts_of(results)
    score_tasks(results, starts, folder / "tasks", scale)


def score_tasks(
    results: Results, starts: Mapping[tuple[str, int], Path], tasks: Path, scale: float
) -> None:
    """Every task from every start, and by linear models."""
    fine_tune_all(results, starts, tasks, scale)
    for name in TASKS:
        compute = partial(linear, tasks=tasks, name=name, studies=results.folder)
        results.compute(f"linear-{name}", compute)


def starts_of(results: Results) -> dict[tuple[str, int], Path]:
    """The run that each fine-tuning starts from, by start and seed."""
    runs = {"pretrained": ["encoder"] * len(SEEDS), "scratch": [f"random-{n}" for n in SEEDS]}
    return {
        (start, seed): results.run_folder(name) / "run"
        for start in STARTS
        for seed, name in zip(SEEDS, runs[start], strict=True)
    }


def linear(_: Path, tasks: Path, name: str, studies: Path) -> Values:
    """The linear models of a task."""
    return linear_scores(tasks, name, rows_folder(studies, "encoder") / "tokenizer.json")


def pretrain(folder: Path, rows: Path, scale: float) -> Values:
    """The encoder, one rank on each of two cores."""
    tree = encoder_config(rows, scale)
    cost = train(tree, folder, ranks=2)
    return {**described(folder, cost), "rows": tree["total_rows"]}


def encoder_config(rows: Path, scale: float) -> dict[str, Any]:
    """The config of the pretraining, `scale` times as long."""
    tree: dict[str, Any] = yaml.safe_load(ENCODER.read_text())
    tree["data"]["path"] = str(rows)
    batch = tree["batch"]["global_rows"]
    tree["total_rows"] = max(1, round(tree["total_rows"] * scale / batch)) * batch
    tree["schedule"]["warmup_rows"] = min(tree["schedule"]["warmup_rows"], tree["total_rows"] // 10)
    return tree


def described(folder: Path, cost: Cost) -> Values:
    """The held-out curve of a pretraining run and its last values."""
    found = curves(folder, "heldout_loss", "heldout_accuracy", "heldout_unigram_loss")
    return {
        "heldout_loss": found["heldout_loss"][-1][1],
        "heldout_accuracy": found["heldout_accuracy"][-1][1],
        "unigram_loss": found["heldout_unigram_loss"][-1][1],
        "curve": found["heldout_loss"],
        "wall_s": cost.wall_s,
        "cpu_s": cost.cpu_s,
    }


def random_weights(folder: Path, rows: Path, seed: int) -> Values:
    """The encoder after one step with a learning rate of next to nothing."""
    tree = encoder_config(rows, scale=0)
    tree["seed"] = 100 + seed
    tree["optimizer"] = {"type": "adamw", "lr": 1e-12}
    tree["schedule"] = {"type": "constant"}
    cost = train(tree, folder)
    return {"cpu_s": cost.cpu_s}


def fine_tune_all(
    results: Results, starts: Mapping[tuple[str, int], Path], tasks: Path, scale: float
) -> None:
    """Every task from every start: both learning rates with one seed, the better one with all."""

    def job(name: str, start: str, lr: float, seed: int) -> Values:
        path = starts[start, seed]
        compute = partial(
            fine_tune, tasks=tasks, name=name, start=path, lr=lr, seed=seed, scale=scale
        )
        return compute_and_forget(results, f"{name}-{start}-{lr:g}-{seed}", compute)

    kinds = [(name, start) for name in TASKS for start in dict.fromkeys(s for s, _ in starts)]
    first = [(*kind, lr, SEEDS[0]) for kind in kinds for lr in LEARNING_RATES]
    side_by_side([partial(job, *arguments) for arguments in first])
    rest = [
        (name, start, best_lr(results, name, start), seed)
        for name, start in kinds
        for seed in SEEDS[1:]
    ]
    side_by_side([partial(job, *arguments) for arguments in rest])


def compute_and_forget(results: Results, name: str, compute: Callable[[Path], Values]) -> Values:
    """A result, whose checkpoints are deleted: together they are gigabytes."""
    values = results.compute(name, compute)
    shutil.rmtree(results.run_folder(name) / "run" / "checkpoints", ignore_errors=True)
    return values


def best_lr(results: Results, name: str, start: str) -> float:
    """The learning rate with the best dev score of the first seed."""

    def dev(lr: float) -> float:
        found = results.get(f"{name}-{start}-{lr:g}-{SEEDS[0]}")
        return float(found["dev"]) if found else float("-inf")

    return max(LEARNING_RATES, key=dev)


def fine_tune(
    folder: Path, *, tasks: Path, name: str, start: Path, lr: float, seed: int, scale: float
) -> Values:
    """The scores of one fine-tuning, of its checkpoint with the best dev score."""
    tree = fine_tuning_config(tasks, name, lr, seed, scale)
    tree["start"] = start_of(start)
    cost = train(tree, folder)
    metric = f"dev_{TASKS[name].metric}/{name}"
    points = curve(folder, metric)
    test = score(folder, best=True, changes=[f"tasks.{name}.dev={task_file(tasks, name, 'test')}"])
    return {
        "dev": max(value for _, value in points),
        "test": test[metric],
        "lr": lr,
        "seed": seed,
        "curve": points,
        "cpu_s": cost.cpu_s,
    }


def start_of(folder: Path) -> dict[str, str]:
    """The `start` section for a run's folder or a Hugging Face folder."""
    kind = "hugging_face" if (folder / "config.json").exists() else "run"
    return {"type": kind, "path": str(folder)}


def fine_tuning_config(
    tasks: Path, name: str, lr: float, seed: int, scale: float
) -> dict[str, Any]:
    """The config without its start: AdamW, linear schedule, dropout .1."""
    task = TASKS[name]
    train_file = task_file(tasks, name, "train")
    epoch_steps = max(1, sum(1 for _ in read_examples(train_file)) // EXAMPLES_PER_STEP)
    steps = max(1, round(epoch_steps * task.epochs * scale))
    settings = {
        "type": "token_classification" if task.is_tagging else "classification",
        "labels": labels_of(tasks, name),
        "train": str(train_file),
        "dev": str(task_file(tasks, name, "dev")),
        "examples_per_step": EXAMPLES_PER_STEP,
    }
    return {
        "seed": seed,
        "tasks": {name: settings},
        "model": {"hidden_dropout": 0.1, "attention_dropout": 0.1, "pooler": {"type": "mean"}},
        "max_row_tokens": task.row_tokens,
        "steps": steps,
        "micro_rows": 16,
        "evaluate_every_steps": max(epoch_steps, steps // MAX_EVALUATIONS),
        "log_every_steps": epoch_steps,
        "optimizer": {"type": "adamw", "lr": lr, "weight_decay": 0.01, "eps": 1e-8},
        "schedule": {"type": "linear", "warmup_rows": steps * EXAMPLES_PER_STEP // 10},
        "checkpoint": {"every_steps": NEVER, "keep_best": 1, "keep_last": 1},
    }
