"""Reads small files as tasks, with a tokenizer that is trained in a second."""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from data_prep.tokenization.tokenizer import roberta_places
from data_prep.tokenization.train import train_tokenizer
from pipeline.finetuning.examples import ExampleFile, RowEncoder
from pipeline.finetuning.tasks.task import TaskConfig
from pipeline.finetuning.tasks.union import FinetuneTask

SENTENCE = "the cat sat on the mat and the dog ate the hat of the rat in a red bed"
CLASSES: dict[str, Any] = {"type": "classification", "labels": ["0", "1"]}


def make_encoder(folder: Path, max_row_tokens: int = 64) -> RowEncoder:
    """An encoder of words such as those of SENTENCE."""
    path = folder / "tokenizer.json"
    path.write_text(train_tokenizer([SENTENCE] * 60, 270).to_str())
    return RowEncoder(path, roberta_places(270), max_row_tokens)


def task_of(train: str | Path | list[str], **keys: Any) -> TaskConfig:
    """A task, by default a classification with the labels 0 and 1."""
    files = train if isinstance(train, list) else str(train)
    tree = {**(keys if "type" in keys else {**CLASSES, **keys}), "train": files}
    task: TaskConfig = TypeAdapter(FinetuneTask).validate_python(tree)
    return task


def read(encoder: RowEncoder, train: str | Path | list[str], **keys: Any) -> ExampleFile:
    """The examples of such a task."""
    task = task_of(train, **keys)
    return task.read(task.train, encoder)


def labels_of(file: ExampleFile) -> list[Any]:
    """The labels of all examples."""
    return [example.label for example in file.examples]
