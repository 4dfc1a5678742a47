"""The task of an exported folder: ``task.json``, which the export writes, or what config.json says.

Folders that another program fine-tuned have no ``task.json``; the class and the labels in their
config.json name the task. Imports no torch.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.load import Config, ConfigError, UserError, validate
from data_prep.dataset.files import read_json
from pipeline.finetuning.tasks.task import TaskConfig
from pipeline.finetuning.tasks.union import FinetuneTask

TASK_NAME = "task.json"
NOT_EXPORTED = {"train", "dev", "examples_per_step", "weight"}
"""Keys of a task that say how it was trained, not what it computes."""
MAX_ROW_TOKENS = "max_row_tokens"
_KINDS = {
    "ForSequenceClassification": "classification",
    "ForTokenClassification": "token_classification",
    "ForQuestionAnswering": "span_question_answering",
    "ForMultipleChoice": "multiple_choice",
}
"""Types of tasks by the ends of the names of transformers' classes."""
_LARGEST_LENGTH = 1_000_000
"""A longer `model_max_length` is transformers' word for "not set"."""


class _Task(Config):
    """So that `validate` names the keys of a task."""

    task: FinetuneTask


def task_json(name: str, task: TaskConfig, max_row_tokens: int) -> str:
    """The content of ``task.json``; `max_row_tokens` is the longest row that was trained on."""
    tree = {
        "name": name,
        MAX_ROW_TOKENS: max_row_tokens,
        "task": task.model_dump(mode="json", exclude=NOT_EXPORTED),
    }
    return json.dumps(tree, indent=2) + "\n"


def read_task(
    folder: Path, input_files: str, changes: Mapping[str, Any]
) -> tuple[str, TaskConfig, int]:
    """(name, task with `input_files` as its file, longest row) of an exported folder.

    `changes` are keys of the task, of its input format for example, or `max_row_tokens`. Raises
    ConfigError for a class that is no task, and for keys that are missing or wrong.
    """
    path = folder / TASK_NAME
    if path.is_file():
        tree = read_json(path)
        origin = str(path)
    else:
        tree = _task_of_config(folder)
        origin = str(folder / "config.json")
    try:
        name, task = str(tree["name"]), dict(tree["task"])
        longest = changes.get(MAX_ROW_TOKENS, tree[MAX_ROW_TOKENS])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error!r}; export the task again") from None
    if not isinstance(longest, int) or longest < 8:
        raise ConfigError(
            f"{origin}: max_row_tokens is {longest!r}: give the longest row of the model in "
            "tokens, at least 8: max_row_tokens=N"
        )
    return name, changed_task(task, input_files, changes, origin), longest


def changed_task(
    task: Mapping[str, Any], input_files: str, changes: Mapping[str, Any], origin: str
) -> TaskConfig:
    """The task of the config `task` that reads `input_files`, with `changes` of its keys."""
    own = {key: value for key, value in changes.items() if key != MAX_ROW_TOKENS}
    merged = {**task, **own, "train": input_files}
    return validate({"task": merged}, _Task, origin).task


def _task_of_config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    classes = config.get("architectures") or ["a model of no known class"]
    kind = next((kind for end, kind in _KINDS.items() if classes[0].endswith(end)), None)
    if kind is None:
        raise UserError(
            f"{folder}: {classes[0]} is no model of a task; those are classes that end with "
            f"{', '.join(_KINDS)}"
        )
    task: dict[str, Any] = {"type": kind}
    labels = config.get("id2label") or {}
    names = [labels[key] for key in sorted(labels, key=int)]
    if kind == "classification":
        problem = config.get("problem_type")
        if problem == "regression" or len(names) == 1:
            task["type"] = "regression"
        elif problem == "multi_label_classification":
            task["type"] = problem
    if task["type"] in ("classification", "multi_label_classification", "token_classification"):
        task["labels"] = names
    return {"name": folder.name, "task": task, MAX_ROW_TOKENS: _longest_row(folder, config)}


def _longest_row(folder: Path, config: Mapping[str, Any]) -> int | None:
    path = folder / "tokenizer_config.json"
    given = read_json(path).get("model_max_length") if path.is_file() else None
    positions = config.get("max_position_embeddings")
    limits = [n for n in (given, positions) if isinstance(n, int | float) and n < _LARGEST_LENGTH]
    return int(min(limits)) if limits else None
