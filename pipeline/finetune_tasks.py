"""The tasks that a model can be fine-tuned on, in one union."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field, FiniteFloat, NonNegativeInt
from tokenizers import Encoding

from pipeline import finetune_metrics as score
from pipeline.finetune_examples import Example, ExampleFile, Ids, Line, RowEncoder
from pipeline.finetune_span import SpanQuestionAnswering
from pipeline.finetune_task import (
    UNUSED,
    LabelledTask,
    Scores,
    Targets,
    TaskConfig,
    example_file,
    ids_of,
)

if TYPE_CHECKING:
    from model.task_heads import TaskHeadConfig


class TextLine(Line):
    """A text, or two of them."""

    text: str
    second_text: str | None = None


class LabelledText(TextLine):
    """A text with its class."""

    label: str | int


class RatedText(TextLine):
    """A text with its value."""

    value: FiniteFloat


class LabelledWords(Line):
    """Words with a class each."""

    words: tuple[str, ...] = Field(min_length=1)
    labels: tuple[str | int, ...]


class ChoiceLine(Line):
    """A text that one of several others follows."""

    text: str
    choices: tuple[str, ...]
    label: NonNegativeInt


class Classification(LabelledTask):
    """One class for each text or pair of texts."""

    type: Literal["classification"] = "classification"
    MAIN_METRIC = "accuracy"

    def head(self) -> "TaskHeadConfig":
        from model.task_heads import SequenceClassification

        return SequenceClassification(num_labels=len(self.labels))

    def read(self, path: Path, encoder: RowEncoder) -> ExampleFile:
        def examples_of(line: LabelledText, number: int) -> list[Example]:
            label = self.number_of(line.label)
            return [Example((ids_of(encoder.row(line.text, line.second_text)),), label, number)]

        return example_file(path, encoder, LabelledText, examples_of)

    def metrics(self, examples: Sequence[Example], scores: Scores) -> dict[str, float]:
        labels = [example.label for example in examples]
        predicted = [values.argmax() for values in scores]
        return {
            "accuracy": score.accuracy(predicted, labels),
            "macro_f1": score.macro_f1(predicted, labels, len(self.labels)),
        }


class Regression(TaskConfig):
    """One number for each text or pair of texts."""

    type: Literal["regression"] = "regression"
    MAIN_METRIC = "pearson"

    def head(self) -> "TaskHeadConfig":
        from model.task_heads import SequenceRegression

        return SequenceRegression()

    def read(self, path: Path, encoder: RowEncoder) -> ExampleFile:
        def examples_of(line: RatedText, number: int) -> list[Example]:
            return [
                Example((ids_of(encoder.row(line.text, line.second_text)),), line.value, number)
            ]

        return example_file(path, encoder, RatedText, examples_of)

    def targets(self, examples: Sequence[Example], row_tokens: int) -> Targets:
        return np.array([[example.label] for example in examples], dtype=np.float32)

    def no_targets(self, num_rows: int, row_tokens: int) -> Targets:
        return np.full((num_rows, 1), np.nan, dtype=np.float32)

    def num_used(self, targets: Targets) -> int:
        return int((~np.isnan(targets)).sum())

    def metrics(self, examples: Sequence[Example], scores: Scores) -> dict[str, float]:
        values = np.array([example.label for example in examples])
        predicted = np.array([values[0] for values in scores])
        return {
            "pearson": score.pearson(predicted, values),
            "mean_squared_error": float(np.square(predicted - values).mean()),
        }


class TokenClassification(LabelledTask):
    """One class for each word; the word's first token carries it."""

    type: Literal["token_classification"] = "token_classification"
    MAIN_METRIC = "accuracy"

    @property
    def reads_pooled(self) -> bool:
        return False

    def head(self) -> "TaskHeadConfig":
        from model import task_heads

        return task_heads.TokenClassification(num_labels=len(self.labels))

    def read(self, path: Path, encoder: RowEncoder) -> ExampleFile:
        def examples_of(line: LabelledWords, number: int) -> list[Example]:
            if len(line.labels) != len(line.words):
                raise ValueError(f"{len(line.labels)} labels for {len(line.words)} words")
            for word in line.words:
                if not word or word != "".join(word.split()):
                    raise ValueError(f"words: {word!r} is empty or has white space in it")
            numbers = [self.number_of(label) for label in line.labels]
            encoding = encoder.row(" ".join(line.words))
            return [
                Example((ids_of(encoding),), _word_targets(encoding, line.words, numbers), number)
            ]

        return example_file(path, encoder, LabelledWords, examples_of)

    def targets(self, examples: Sequence[Example], row_tokens: int) -> Targets:
        result = np.full((len(examples), row_tokens), UNUSED, dtype=np.int64)  # [B, S]
        for row, example in enumerate(examples):
            result[row, : len(example.label)] = example.label
        return result

    def no_targets(self, num_rows: int, row_tokens: int) -> Targets:
        return np.full((num_rows, row_tokens), UNUSED, dtype=np.int64)

    def metrics(self, examples: Sequence[Example], scores: Scores) -> dict[str, float]:
        labels = np.concatenate([example.label for example in examples])
        predicted = np.concatenate(
            [
                values[: len(example.label)].argmax(axis=1)
                for example, values in zip(examples, scores, strict=True)
            ]
        )
        is_used = labels >= 0
        return {
            "accuracy": score.accuracy(predicted[is_used], labels[is_used]),
            "macro_f1": score.macro_f1(predicted[is_used], labels[is_used], len(self.labels)),
        }


class MultipleChoice(TaskConfig):
    """Which of `num_choices` texts follows a text."""

    type: Literal["multiple_choice"] = "multiple_choice"
    MAIN_METRIC = "accuracy"

    num_choices: int = Field(gt=1)
    """Choices of every question."""

    @property
    def rows_per_example(self) -> int:
        return self.num_choices

    def head(self) -> "TaskHeadConfig":
        from model import task_heads

        return task_heads.MultipleChoice(num_choices=self.num_choices)

    def read(self, path: Path, encoder: RowEncoder) -> ExampleFile:
        def examples_of(line: ChoiceLine, number: int) -> list[Example]:
            if len(line.choices) != self.num_choices:
                raise ValueError(f"{len(line.choices)} choices, num_choices is {self.num_choices}")
            if line.label >= self.num_choices:
                raise ValueError(f"label {line.label} is not a choice: they count from 0")
            rows = tuple(ids_of(encoder.row(line.text, choice)) for choice in line.choices)
            return [Example(rows, line.label, number)]

        return example_file(path, encoder, ChoiceLine, examples_of)

    def no_targets(self, num_rows: int, row_tokens: int) -> Targets:
        return np.empty(0, dtype=np.int64)

    def metrics(self, examples: Sequence[Example], scores: Scores) -> dict[str, float]:
        predicted = [values[:, 0].argmax() for values in scores]
        return {"accuracy": score.accuracy(predicted, [example.label for example in examples])}


FinetuneTask = Annotated[
    Classification | Regression | TokenClassification | SpanQuestionAnswering | MultipleChoice,
    Field(discriminator="type"),
]


def _word_targets(encoding: Encoding, words: Sequence[str], numbers: Sequence[int]) -> Ids:
    """[S] the class of each word at its first token, -100 elsewhere."""
    starts = np.cumsum([0, *(len(word) + 1 for word in words[:-1])])
    number_at = dict(zip(starts.tolist(), numbers, strict=True))
    targets = np.full(len(encoding.ids), UNUSED, dtype=np.int64)
    for place, ((start, _), sequence) in enumerate(
        zip(encoding.offsets, encoding.sequence_ids, strict=True)
    ):
        if sequence == 0 and start in number_at:  # later tokens of the first character: taken
            targets[place] = number_at.pop(start)
    return targets
