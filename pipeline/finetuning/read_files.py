"""Reads the files of tasks once for all plans that read them alike (the children of a sweep)."""

from collections.abc import Sequence
from pathlib import Path

from configs.load import fingerprint
from pipeline.finetuning.examples import ExampleFile, RowEncoder
from pipeline.finetuning.tasks.task import TaskConfig

ReadFiles = dict[str, ExampleFile]
"""What was read, by a hash of all that decides it."""

NOT_READ_BY = {"train", "dev", "examples_per_step", "weight", "metric", "class_weights"}
"""Keys of a task that make no difference to the examples of a file."""


class FileReader:
    """Reads the files of tasks with one encoder."""

    def __init__(self, encoder: RowEncoder, tokenizer_sha256: str, known: ReadFiles) -> None:
        self._encoder, self._known = encoder, known
        self._key = [tokenizer_sha256, encoder.max_row_tokens]

    def read(self, task: TaskConfig, files: str | Path | Sequence[str | Path]) -> ExampleFile:
        """The examples in `files`; raises UserError that names every bad record."""
        names = [files] if isinstance(files, str | Path) else files
        settings = task.model_dump(mode="json", exclude=NOT_READ_BY)
        key = fingerprint([*self._key, settings, [str(name) for name in names]])
        if key not in self._known:
            self._known[key] = task.read(files, self._encoder)
        return self._known[key]
