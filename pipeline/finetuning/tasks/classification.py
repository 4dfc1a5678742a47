"""Text classification: one label per text."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.finetuning import metrics as score
from pipeline.finetuning.examples import Example, ExampleFile, Line, RowEncoder
from pipeline.finetuning.tasks.task import (
    LabelledTask,
    Scores,
    check_label,
    example_file,
    example_of,
    softmax,
)

if TYPE_CHECKING:
    from model.task_heads import TaskHeadConfig


class TextLine(Line):
    """A text, or two of them."""

    text: str
    second_text: str | None = None


class LabelledText(TextLine):
    """A text with its class."""

    label: str | int | None = None


class Classification(LabelledTask):
    """One class for each text or pair of texts."""

    type: Literal["classification"] = "classification"
    MAIN_METRIC = "accuracy"

    def head(self) -> "TaskHeadConfig":
        from model.task_heads import SequenceClassification

        return SequenceClassification(num_labels=len(self.labels))

    def read(self, path: Path, encoder: RowEncoder, needs_labels: bool = True) -> ExampleFile:
        def examples_of(line: LabelledText, number: int) -> list[Example]:
            check_label(line.label, "label", needs_labels)
            label = None if line.label is None else self.number_of(line.label)
            return [example_of([encoder.row(line.text, line.second_text)], label, number, line)]

        return example_file(path, encoder, LabelledText, examples_of)

    def metrics(self, examples: Sequence[Example], scores: Scores) -> dict[str, float]:
        labels = [example.label for example in examples]
        predicted = [values.argmax() for values in scores]
        return {
            "accuracy": score.accuracy(predicted, labels),
            "macro_f1": score.macro_f1(predicted, labels, len(self.labels)),
        }

    def prediction(self, example: Example, scores: NDArray[np.float64]) -> dict[str, Any]:
        shares = softmax(scores)
        return {
            "label": self.labels[int(scores.argmax())],
            "scores": dict(zip(self.labels, shares.tolist(), strict=True)),
        }

    def exported_settings(self) -> dict[str, Any]:
        return {**super().exported_settings(), "problem_type": "single_label_classification"}
