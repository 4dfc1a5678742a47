"""Answering questions with a part of a text (Rajpurkar et al. 2016, SQuAD), as a fine-tuning task.

S tokens in a row.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AliasChoices,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    field_validator,
)
from tokenizers import Encoding

from pipeline.finetuning.examples import Example, Line, RowEncoder, Window
from pipeline.finetuning.inputs.record import BadRecord
from pipeline.finetuning.tasks.answers import Answers, answer_metrics, best_answers, window_answers
from pipeline.finetuning.tasks.task import UNUSED, Scores, Targets, TaskConfig, example_of

if TYPE_CHECKING:
    from torch import Tensor

    from model.task_heads import TaskHeadConfig


class Answer(Line):
    """An answer, and the character of the context at which it starts."""

    text: str = Field(min_length=1)
    start: NonNegativeInt = Field(validation_alias=AliasChoices("start", "answer_start"))


class Question(Line):
    """A question whose answers, if there are any, stand in its context."""

    question: str
    context: str
    answers: tuple[Answer, ...] | None = None
    """None: not known; empty: the context has none."""

    @field_validator("answers", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        """From a mapping of lists, as `datasets` stores answers."""
        if not isinstance(value, Mapping):
            return value
        texts = value.get("text")
        starts = value.get("answer_start", value.get("start"))
        if not isinstance(texts, list) or not isinstance(starts, list):
            raise ValueError("a list of answers, or a list each of text and answer_start")
        if len(texts) != len(starts):
            raise ValueError(f"{len(texts)} texts and {len(starts)} starts of answers")
        return [{"text": t, "start": s} for t, s in zip(texts, starts, strict=True)]


class SpanQuestionAnswering(TaskConfig):
    """The part of a text that answers a question; a long text is read in windows."""

    type: Literal["span_question_answering"] = "span_question_answering"
    LINE = Question
    LABEL_FIELDS = ("answers",)
    MAIN_METRICS = ("f1", "exact_match", "best_f1", "best_exact_match")
    EXPORTED_OUTPUTS = ("start_logits", "end_logits")

    stride_tokens: NonNegativeInt = 128
    """Tokens of the context that neighbouring windows share."""

    max_answer_tokens: PositiveInt = 30
    """The longest answer that is predicted."""

    num_best: PositiveInt = 20
    """Answers that are kept of each window."""

    no_answer_threshold: FiniteFloat = 0.0
    """Where some questions have no answer: how much higher than the best answer "no answer" must
    score to be predicted."""

    @property
    def reads_pooled(self) -> bool:
        return False

    def head(self) -> "TaskHeadConfig":
        from model import task_heads

        return task_heads.SpanQuestionAnswering()

    def examples_of(self, line: Question, number: int, encoder: RowEncoder) -> list[Example]:
        for answer in line.answers or ():
            found = line.context[answer.start : answer.start + len(answer.text)]
            if found != answer.text:
                raise BadRecord(
                    "answer_offset",
                    f"answers: {answer.text!r} does not stand at character {answer.start} of "
                    f"the context, {found!r} does",
                )
        return [
            _question_window(encoding, line, number)
            for encoding in encoder.windows(line.question, line.context, self.stride_tokens)
        ]

    def no_targets(self, num_rows: int, row_tokens: int) -> Targets:
        return np.full((num_rows, 2), UNUSED, dtype=np.int64)

    def num_used(self, targets: Targets) -> int:
        return int((targets[:, 0] >= 0).sum())

    def kept_scores(self, example: Example, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """The `window_answers` of a window."""
        return window_answers(_window(example), scores, self.max_answer_tokens, self.num_best)

    def metrics_of_kept(self, examples: Sequence[Example], kept: Scores) -> dict[str, float]:
        questions = self._answers(examples, kept)
        found = answer_metrics(
            [(answers, _window(example).answers) for example, answers in questions],
            self.no_answer_threshold,
        )
        if self.main_metric not in found:  # no threshold where every question has an answer
            found[self.main_metric] = found[self.main_metric.removeprefix("best_")]
        return found

    def _answers(self, examples: Sequence[Example], kept: Scores) -> list[tuple[Example, Answers]]:
        """For each question, its first example and the best answers over all its windows."""
        windows: dict[int, tuple[Example, list[NDArray[np.float64]]]] = {}
        for example, one in zip(examples, kept, strict=True):
            windows.setdefault(example.line, (example, []))[1].append(one)
        return [
            (example, best_answers(_window(example).context, parts, self.num_best))
            for example, parts in windows.values()
        ]

    def predictions(
        self, examples: Sequence[Example], scores: Scores
    ) -> list[tuple[Example, dict[str, Any]]]:
        kept = [self.kept_scores(e, one) for e, one in zip(examples, scores, strict=True)]
        return [
            (example, answers.as_json(self.no_answer_threshold))
            for example, answers in self._answers(examples, kept)
        ]

    def exported_scores(self, model: Any, inputs: "Mapping[str, Tensor]") -> "Tensor":
        import torch

        output = model(**inputs)
        return torch.stack([output.start_logits, output.end_logits], dim=-1)  # [B, S, 2]


def _question_window(encoding: Encoding, line: Question, number: int) -> Example:
    spans = np.array(
        [
            _without_space(line.context, *span) if sequence == 1 else (-1, -1)
            for span, sequence in zip(encoding.offsets, encoding.sequence_ids, strict=True)
        ],
        dtype=np.int64,
    )  # [S, 2]
    label: tuple[int, int] | None = None
    if line.answers is not None:
        label = (0, 0)  # no answer in this window
    for answer in line.answers or ():
        end = answer.start + len(answer.text)
        starts = np.flatnonzero((spans[:, 0] <= answer.start) & (answer.start < spans[:, 1]))
        ends = np.flatnonzero((spans[:, 0] < end) & (end <= spans[:, 1]))
        if len(starts) and len(ends):
            label = (int(starts[0]), int(ends[-1]))
            break
    answers = tuple(answer.text for answer in line.answers or ())
    window = Window(line.context, answers, spans)
    return example_of([encoding], label, number, line, window=window)


def _window(example: Example) -> Window:
    assert example.window is not None
    return example.window


def _without_space(context: str, start: int, end: int) -> tuple[int, int]:
    """The characters of a token without the space that some tokenizers count to the next word."""
    text = context[start:end]
    return start + len(text) - len(text.lstrip() or text), end
