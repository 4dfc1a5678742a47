"""Text regression: one number per text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat

from pipeline.finetuning import metrics as score
from pipeline.finetuning.examples import Example, RowEncoder
from pipeline.finetuning.tasks.classification import TextLine
from pipeline.finetuning.tasks.task import Scores, Targets, TaskConfig, example_of

if TYPE_CHECKING:
    from model.task_heads import TaskHeadConfig


LARGEST_VALUE = float(np.finfo(np.float32).max)


class RatedText(TextLine):
    """A text with its value."""

    value: FiniteFloat | None = Field(None, ge=-LARGEST_VALUE, le=LARGEST_VALUE)


class Regression(TaskConfig):
    """One number for each text or pair of texts."""

    type: Literal["regression"] = "regression"
    LINE = RatedText
    LABEL_FIELDS = ("value",)
    MAIN_METRICS = ("pearson", "spearman")

    def head(self) -> "TaskHeadConfig":
        from model.task_heads import SequenceRegression

        return SequenceRegression()

    def examples_of(self, line: RatedText, number: int, encoder: RowEncoder) -> list[Example]:
        row = encoder.row(line.text, line.second_text)
        return [example_of([row], line.value, number, line)]

    def targets(self, examples: Sequence[Example], row_tokens: int) -> Targets:
        return np.array([[example.label] for example in examples], dtype=np.float32)

    def no_targets(self, num_rows: int, row_tokens: int) -> Targets:
        return np.full((num_rows, 1), np.nan, dtype=np.float32)

    def num_used(self, targets: Targets) -> int:
        return int((~np.isnan(targets)).sum())

    def metrics_of_kept(self, examples: Sequence[Example], kept: Scores) -> dict[str, float]:
        values = np.array([example.label for example in examples])
        predicted = np.array([values[0] for values in kept])
        return {
            "pearson": score.pearson(predicted, values),
            "spearman": score.spearman(predicted, values),
            "mean_squared_error": float(np.square(predicted - values).mean()),
        }

    def prediction(self, example: Example, scores: NDArray[np.float64]) -> dict[str, Any]:
        return {"value": float(scores[0])}

    def exported_settings(self) -> dict[str, Any]:
        return {"problem_type": "regression", "num_labels": 1}
