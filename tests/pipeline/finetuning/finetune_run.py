"""Small fine-tuning runs on forked ranks: six tasks with something to learn."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from configs import log
from configs.load import validate
from data_prep.tokenization.train import train_tokenizer
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.loop import finetune
from pipeline.finetuning.plan import plan_finetuning
from pipeline.finetuning.sweep.run import run_sweep
from pipeline.launch.environment import Launch
from pipeline.launch.shared_error import ReportOnce
from pipeline.run import run_folder
from pipeline.run.config import TrainConfig
from tests.gloo import run_ranks
from tests.pipeline.training_run import make_config, make_rows, pretrain

ANIMALS = ("cat", "dog", "hat", "rat")
SENTENCE = "the cat sat on the mat and the dog ate the hat of the rat in a red bed"
SWEPT_RATES = [1e-3, 1e-2]
TASKS: dict[str, dict[str, Any]] = {
    "animal": {"type": "classification", "labels": list(ANIMALS), "examples_per_step": 8},
    "length": {"type": "regression", "examples_per_step": 8},
    "tags": {"type": "token_classification", "labels": ["no", "yes"], "examples_per_step": 4},
    "where": {"type": "span_question_answering", "stride_tokens": 4, "examples_per_step": 4},
    "next": {"type": "multiple_choice", "num_choices": 2, "examples_per_step": 4},
    "inside": {
        "type": "multi_label_classification",
        "labels": list(ANIMALS),
        "examples_per_step": 4,
    },
}


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> Path:
    """A JSON-lines file."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def make_tasks(folder: Path, num_lines: int = 24) -> dict[str, dict[str, Any]]:
    """The six tasks with their files in `folder`."""
    generator = np.random.default_rng(0)
    words = SENTENCE.split()
    files: dict[str, list[dict[str, Any]]] = {name: [] for name in TASKS}
    for number in range(num_lines):
        animal = ANIMALS[number % 4]
        some = [str(word) for word in generator.choice(words, 3 + number % 5)]
        text = " ".join([animal, *some])
        files["animal"].append({"text": f"the {animal} and the {animal}", "label": animal})
        files["length"].append({"text": text, "value": len(some) / 4})
        labels = ["yes" if word in ANIMALS else "no" for word in some]
        files["tags"].append({"words": some, "labels": labels})
        answers = [{"text": animal, "start": 0}] if number % 6 else []
        question = {"question": "who", "context": text, "answers": answers}
        files["where"].append(question if answers else {**question, "context": "a red bed"})
        choices = [animal, "bed"] if number % 2 else ["bed", animal]
        animals = sorted({animal, ANIMALS[number // 4 % 4]})
        files["inside"].append({"text": f"the {' and the '.join(animals)}", "labels": animals})
        files["next"].append({"text": "the", "choices": choices, "label": 1 - number % 2})
    folder.mkdir(parents=True, exist_ok=True)
    return {
        name: {
            **task,
            "train": str(write_lines(folder / f"{name}.jsonl", files[name])),
            "dev": str(folder / f"{name}.jsonl"),
        }
        for name, task in TASKS.items()
    }


def make_pretrained(folder: Path, **changes: Any) -> TrainConfig:
    """A finished tiny pretraining run with a real tokenizer; `changes` as in `make_config`."""
    make_rows(folder / "rows", tokenizer=train_tokenizer([SENTENCE] * 60, 270))
    config = make_config(folder / "rows", folder / "run", total_rows=5 * 16, **changes)
    run_ranks(pretrain, 1, config)
    return config


def make_finetune_config(pretrained: TrainConfig, output: Path, **changes: Any) -> FinetuneConfig:
    """All six tasks and MLM for 6 steps; `changes` replace top-level keys."""
    tree: dict[str, Any] = {
        "name": "test",
        "output": str(output),
        "start": {"type": "run", "path": str(pretrained.output)},
        "tasks": make_tasks(output.parent / "tasks"),
        "mlm": {"data": {"path": str(pretrained.data.path)}, "rows_per_step": 12},
        "steps": 6,
        "micro_rows": 8,
        "precision": "fp32",
        "optimizer": {"lr": 1e-3},
        "evaluate_every_steps": 3,
        "tracking": {"enabled": False},
    }
    return validate({**tree, **changes}, FinetuneConfig, origin="test")


def run_finetuning(config: FinetuneConfig) -> None:
    """What a rank does in a launch, inside the world that `gloo.run_ranks` made."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    log.configure(rank)
    plan = plan_finetuning(config, world_size, is_first=rank == 0)
    if rank == 0:
        run_folder.claim(plan.config, plan.data_fingerprint)
    dist.barrier()
    finetune(plan, Launch(rank, rank, world_size, world_size))


def sweep_config(pretrained: TrainConfig, output: Path, **changes: Any) -> FinetuneConfig:
    """Two learning rates of one classification, for three steps."""
    tasks = make_tasks(output.parent / "tasks")
    tree = {
        "tasks": {"animal": tasks["animal"]},
        "mlm": None,
        "steps": 3,
        "evaluate_every_steps": 1,
        "sweep": {"lr": SWEPT_RATES, "seeds": 2},
        **changes,
    }
    return make_finetune_config(pretrained, output, **tree)


def sweep_rank(config: FinetuneConfig) -> None:
    """What a rank does in a launch."""
    rank, size = dist.get_rank(), dist.get_world_size()
    log.configure(rank)
    run_sweep(config, Launch(rank, rank, size, size), ReportOnce(rank), None)
