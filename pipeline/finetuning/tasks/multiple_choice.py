"""Multiple choice: the right one of several endings."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt

from pipeline.finetuning import metrics as score
from pipeline.finetuning.examples import Example, Line, RowEncoder
from pipeline.finetuning.inputs.record import BadRecord
from pipeline.finetuning.tasks.task import Scores, Targets, TaskConfig, example_of

if TYPE_CHECKING:
    from torch import Tensor

    from model.task_heads import TaskHeadConfig


class ChoiceLine(Line):
    """A text that one of several others follows."""

    text: str
    choices: tuple[str, ...]
    label: NonNegativeInt | None = None


class MultipleChoice(TaskConfig):
    """Which of `num_choices` texts follows a text."""

    type: Literal["multiple_choice"] = "multiple_choice"
    LINE = ChoiceLine
    MAIN_METRICS = ("accuracy",)

    num_choices: int = Field(gt=1)
    """Choices of every question."""

    @property
    def rows_per_example(self) -> int:
        return self.num_choices

    def head(self) -> "TaskHeadConfig":
        from model import task_heads

        return task_heads.MultipleChoice(num_choices=self.num_choices)

    def examples_of(self, line: ChoiceLine, number: int, encoder: RowEncoder) -> list[Example]:
        if len(line.choices) != self.num_choices:
            count = len(line.choices)
            raise BadRecord("value", f"{count} choices, num_choices is {self.num_choices}")
        if line.label is not None and line.label >= self.num_choices:
            message = f"label {line.label} is not a choice: they count from 0"
            raise BadRecord("unknown_label", message, value=str(line.label))
        rows = [encoder.row(line.text, choice) for choice in line.choices]
        return [example_of(rows, line.label, number, line)]

    def no_targets(self, num_rows: int, row_tokens: int) -> Targets:
        return np.empty(0, dtype=np.int64)

    def metrics_of_kept(self, examples: Sequence[Example], kept: Scores) -> dict[str, float]:
        predicted = [values[:, 0].argmax() for values in kept]
        return {"accuracy": score.accuracy(predicted, [example.label for example in examples])}

    def prediction(self, example: Example, scores: NDArray[np.float64]) -> dict[str, Any]:
        shares = score.softmax(scores[:, 0])
        return {"choice": int(shares.argmax()), "scores": shares.tolist()}

    def exported_scores(self, model: Any, inputs: "Mapping[str, Tensor]") -> "Tensor":
        shape = (-1, self.num_choices, inputs["input_ids"].shape[1])
        output = model(**{name: value.reshape(shape) for name, value in inputs.items()})
        scores: Tensor = output.logits.reshape(-1, 1)  # [B, 1] from [examples, choices]
        return scores
