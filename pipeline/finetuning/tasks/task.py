"""What a fine-tuning task is: a frozen config that turns lines into examples, examples into targets
for its head, and the head's scores into metrics. Imports no torch.

B rows, S tokens in a row, L classes or values; the target -100 leaves a place out.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt, field_validator
from tokenizers import Encoding

from configs.load import Config
from configs.paths import ConfigPath
from data_prep.dataset.manifest import file_sha256
from pipeline.finetuning.examples import (
    Example,
    ExampleFile,
    Line,
    LineT,
    RowEncoder,
    read_lines,
)

if TYPE_CHECKING:
    from torch import Tensor

    from model.task_heads import TaskHeadConfig

UNUSED = -100
"""The target of a place without a label."""
Targets = NDArray[np.int64] | NDArray[np.float32]
"""Labels for a head; classes and positions are int64, values float32."""
Scores = Sequence[NDArray[np.float64]]
"""A head's scores of each example: [L]; [S, L] of a head that reads tokens; [C, 1] of C choices."""


class TaskConfig(Config):
    """What every task has."""

    MAIN_METRIC: ClassVar[str]
    """The metric of its progress line."""
    EXPORTED_OUTPUTS: ClassVar[tuple[str, ...]] = ("logits",)
    """The scores in the result of transformers' model."""

    train: ConfigPath
    """JSON-lines file to train on."""

    dev: ConfigPath | None = None
    """JSON-lines file to evaluate on (default: no evaluation)."""

    examples_per_step: PositiveInt = 32
    """Examples of one optimizer step over all ranks."""

    weight: PositiveFloat = 1.0
    """Factor of the task's mean loss in the sum that is trained on."""

    @property
    def rows_per_example(self) -> int:
        """Rows that one prediction is made from."""
        return 1

    @property
    def reads_pooled(self) -> bool:
        """Whether the head reads one vector a row."""
        return True

    def head(self) -> "TaskHeadConfig":
        """The head of the model."""
        raise NotImplementedError

    def read(self, path: Path, encoder: RowEncoder, needs_labels: bool = True) -> ExampleFile:
        """The examples in a file; UserError names every bad line.

        Without `needs_labels` (a file to predict), a line may have no label.
        """
        raise NotImplementedError

    def targets(self, examples: Sequence[Example], row_tokens: int) -> Targets:
        """What the head compares its scores of `examples` with: [B], here the examples' labels.

        Other shapes are those that the head's `loss` takes; `row_tokens` is S of the micro-batch.
        """
        return np.array([example.label for example in examples], dtype=np.int64)

    def no_targets(self, num_rows: int, row_tokens: int) -> Targets:
        """Targets, of the shape of `targets`, that leave out all rows of another task's batch."""
        return np.full(num_rows, UNUSED, dtype=np.int64)

    def num_used(self, targets: Targets) -> int:
        """The number that the head's loss sum is divided by."""
        return int((targets >= 0).sum())

    def metrics(self, examples: Sequence[Example], scores: Scores) -> dict[str, float]:
        """Metrics of all examples of a file; `scores` are the head's, one array an example.

        All of `examples` have labels.
        """
        raise NotImplementedError

    def predictions(
        self, examples: Sequence[Example], scores: Scores
    ) -> list[tuple[Example, dict[str, Any]]]:
        """For each line of a file, its (first) example and what is predicted for it, as JSON.

        `examples` are all of some lines; `scores` are the head's, one array an example.
        """
        return [
            (example, self.prediction(example, one))
            for example, one in zip(examples, scores, strict=True)
        ]

    def prediction(self, example: Example, scores: NDArray[np.float64]) -> dict[str, Any]:
        """What is predicted for an example that is a line of its own."""
        raise NotImplementedError

    def exported_settings(self) -> dict[str, Any]:
        """What transformers' config.json says of the task, besides the model and its class."""
        return {}

    def exported_scores(self, model: Any, inputs: "Mapping[str, Tensor]") -> "Tensor":
        """The scores of transformers' `model` in the shape of our head's.

        `inputs`, each int64 [B, S]: input_ids, attention_mask (1 where a token is no padding) and,
        for models with more than one segment, token_type_ids.
        """
        scores: Tensor = model(**inputs).logits
        return scores


class LabelledTask(TaskConfig):
    """A task with named classes."""

    labels: tuple[str, ...] = Field(min_length=2)
    """Names of the classes, in the order of their numbers."""

    @field_validator("labels", mode="before")
    @classmethod
    def _as_texts(cls, names: Any) -> Any:
        return [str(name) for name in names] if isinstance(names, list | tuple) else names

    @field_validator("labels")
    @classmethod
    def _differ(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError(f"a label is named twice: {', '.join(names)}")
        return names

    def number_of(self, label: str | int) -> int:
        """The number of a class; ValueError for an unknown one."""
        if str(label) not in self.labels:
            raise ValueError(f"label {str(label)!r} is not one of {', '.join(self.labels)}")
        return self.labels.index(str(label))

    def exported_settings(self) -> dict[str, Any]:
        return {
            "id2label": {str(number): label for number, label in enumerate(self.labels)},
            "label2id": {label: number for number, label in enumerate(self.labels)},
        }


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The probabilities of the classes in the last dimension."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def check_label(label: Any, name: str, needs_labels: bool) -> None:
    """Raises ValueError for a line without the label `name` in a file that `needs_labels`."""
    if label is None and needs_labels:
        raise ValueError(f"{name}: required, but missing")


def example_of(
    encodings: Sequence[Encoding], label: Any, number: int, line: Line, **fields: Any
) -> Example:
    """The example with a row for each of `encodings`, of `line` with its `number` in the file;
    `fields` are further ones of `Example`."""
    rows = tuple(np.array(encoding.ids, dtype=np.int64) for encoding in encodings)
    segments = tuple(np.array(encoding.type_ids, dtype=np.int64) for encoding in encodings)
    return Example(rows, label, number, segments=segments, id=line.id, **fields)


def example_file(
    path: Path,
    encoder: RowEncoder,
    schema: type[LineT],
    examples_of: Callable[[LineT, int], list[Example]],
) -> ExampleFile:
    """The examples that `examples_of(line, number)` makes of every line of a file."""
    before = encoder.num_cut
    examples, num_lines = read_lines(path, schema, examples_of)
    num_cut = encoder.num_cut - before
    return ExampleFile(path, file_sha256(path), tuple(examples), num_lines, num_cut)
