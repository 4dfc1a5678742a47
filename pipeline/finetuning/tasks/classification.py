"""Text classification: one label per text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.finetuning import metrics as score
from pipeline.finetuning.examples import Example, Line, RowEncoder
from pipeline.finetuning.tasks.task import Scores, example_of
from pipeline.finetuning.tasks.weighted import WeightedTask
from pipeline.tracking.label_tables import LabelTable

if TYPE_CHECKING:
    from model.task_heads import TaskHeadConfig

BINARY_F1 = "f1"
"""F1 of the second of two classes."""


class TextLine(Line):
    """A text, or two of them."""

    text: str
    second_text: str | None = None


class LabelledText(TextLine):
    """A text with its class."""

    label: str | int | float | None = None


class Classification(WeightedTask):
    """One class for each text or pair of texts."""

    type: Literal["classification"] = "classification"
    LINE = LabelledText
    MAIN_METRICS = ("accuracy", "macro_f1", "micro_f1", "matthews", BINARY_F1)

    def head(self) -> "TaskHeadConfig":
        from model.task_heads import SequenceClassification

        return SequenceClassification(num_labels=len(self.labels))

    def examples_of(self, line: LabelledText, number: int, encoder: RowEncoder) -> list[Example]:
        label = self.number_or_none(line.label)
        return [example_of([encoder.row(line.text, line.second_text)], label, number, line)]

    def allowed_metrics(self) -> tuple[str, ...]:
        is_binary = len(self.labels) == 2
        return tuple(name for name in self.MAIN_METRICS if is_binary or name != BINARY_F1)

    def metrics_of_kept(self, examples: Sequence[Example], kept: Scores) -> dict[str, float]:
        labels = [example.label for example in examples]
        predicted = [int(values.argmax()) for values in kept]
        found = {
            "accuracy": score.accuracy(predicted, labels),
            "macro_f1": score.macro_f1(predicted, labels),
            "micro_f1": score.micro_f1(predicted, labels),
            "matthews": score.matthews(predicted, labels),
        }
        if len(self.labels) == 2:
            found[BINARY_F1] = score.binary_f1(predicted, labels)
        return found

    def label_table(self, examples: Sequence[Example], kept: Scores) -> LabelTable:
        true = [example.label for example in examples]
        return LabelTable.of_classes(self.labels, true, [values.argmax() for values in kept])

    def prediction(self, example: Example, scores: NDArray[np.float64]) -> dict[str, Any]:
        shares = score.softmax(scores)
        return {
            "label": self.labels[int(scores.argmax())],
            "scores": dict(zip(self.labels, shares.tolist(), strict=True)),
        }

    def exported_settings(self) -> dict[str, Any]:
        return {**super().exported_settings(), "problem_type": "single_label_classification"}
