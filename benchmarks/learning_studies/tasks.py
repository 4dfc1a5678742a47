"""The tasks that encoders are fine-tuned on, and their files.

TASKS/NAME-{train,dev,test}.jsonl have the examples, TASKS/texts.jsonl the texts of all dev and test
examples, which are taken out of the pretraining corpus.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.learning_studies import task_sources
from benchmarks.learning_studies.labelled import (
    SPLITS,
    Labelled,
    Sizes,
    divided,
    read_examples,
    write_examples,
)
from data_prep.dataset.atomic import write_atomic

TEXTS_NAME = "texts.jsonl"


@dataclass(frozen=True)
class Task:
    """A task, and how it is trained on."""

    source: Callable[[Path], Iterator[Labelled]]
    """Reads all examples, given an empty folder for downloads."""
    sizes: Sizes
    epochs: int
    row_tokens: int
    """Where texts are cut."""
    is_tagging: bool = False
    balanced: bool = True

    @property
    def metric(self) -> str:
        """What is reported."""
        return "accuracy"


TASKS = {
    "sentiment": Task(task_sources.movie_reviews, Sizes(3000, 500, 2000), 4, 64),
    "sections": Task(task_sources.package_descriptions, Sizes(1800, 360, 1200), 5, 64),
    "definitions": Task(task_sources.definitions, Sizes(2850, 475, 1900), 5, 32),
    "tagging": Task(
        *(task_sources.tagged_sentences, Sizes(1000, 250, 1500), 6, 128),
        is_tagging=True,
        balanced=False,
    ),
}
"""By name."""


def task_file(folder: Path, name: str, split: str) -> Path:
    """The file of a split of the task `name`."""
    return folder / f"{name}-{split}.jsonl"


def prepare_tasks(folder: Path, scale: float = 1.0) -> None:
    """Makes the files that are missing in `folder`; `scale` times as many examples."""
    for name, task in TASKS.items():
        if not all(task_file(folder, name, split).exists() for split in SPLITS):
            with tempfile.TemporaryDirectory() as downloads:
                examples = list(task.source(Path(downloads)))
            write_task(folder, name, divided(examples, task.sizes.scaled(scale), task.balanced))
    texts = [
        example.text
        for name in TASKS
        for split in ("dev", "test")
        for example in read_examples(task_file(folder, name, split))
    ]
    lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
    write_atomic(folder / TEXTS_NAME, "".join(lines))


def write_task(folder: Path, name: str, splits: dict[str, list[Labelled]]) -> None:
    """Writes the files of a task. Examples with a label that the training split lacks are left
    out of the other splits."""
    known = {label for example in splits["train"] for label in example.labels}
    for split, examples in splits.items():
        kept = [example for example in examples if known.issuperset(example.labels)]
        write_examples(task_file(folder, name, split), kept, TASKS[name].is_tagging)


def labels_of(folder: Path, name: str) -> list[str]:
    """The labels of a task, sorted."""
    examples = read_examples(task_file(folder, name, "train"))
    return sorted({label for example in examples for label in example.labels})
