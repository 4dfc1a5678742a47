"""Answering questions with a part of a text (Rajpurkar et al. 2016, SQuAD), as a fine-tuning task.

S tokens in a row.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt
from tokenizers import Encoding

from pipeline.finetuning import metrics as score
from pipeline.finetuning.examples import Example, ExampleFile, Line, RowEncoder, Window
from pipeline.finetuning.tasks.task import (
    UNUSED,
    Scores,
    Targets,
    TaskConfig,
    example_file,
    example_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    from model.task_heads import TaskHeadConfig


class Answer(Line):
    """An answer, and the character of the context at which it starts."""

    text: str = Field(min_length=1)
    start: NonNegativeInt


class Question(Line):
    """A question whose answers, if there are any, stand in its context."""

    question: str
    context: str
    answers: tuple[Answer, ...]


class SpanQuestionAnswering(TaskConfig):
    """The part of a text that answers a question; a long text is read in windows."""

    type: Literal["span_question_answering"] = "span_question_answering"
    MAIN_METRIC = "f1"
    EXPORTED_OUTPUTS = ("start_logits", "end_logits")

    stride_tokens: NonNegativeInt = 128
    """Tokens of the context that neighbouring windows share."""

    max_answer_tokens: PositiveInt = 30
    """The longest answer that is predicted."""

    @property
    def reads_pooled(self) -> bool:
        return False

    def head(self) -> "TaskHeadConfig":
        from model import task_heads

        return task_heads.SpanQuestionAnswering()

    def read(self, path: Path, encoder: RowEncoder) -> ExampleFile:
        def examples_of(line: Question, number: int) -> list[Example]:
            for answer in line.answers:
                found = line.context[answer.start : answer.start + len(answer.text)]
                if found != answer.text:
                    raise ValueError(
                        f"answers: {answer.text!r} does not stand at character {answer.start} of "
                        f"the context, {found!r} does"
                    )
            return [
                _question_window(encoding, line, number)
                for encoding in encoder.windows(line.question, line.context, self.stride_tokens)
            ]

        return example_file(path, encoder, Question, examples_of)

    def no_targets(self, num_rows: int, row_tokens: int) -> Targets:
        return np.full((num_rows, 2), UNUSED, dtype=np.int64)

    def num_used(self, targets: Targets) -> int:
        return int((targets[:, 0] >= 0).sum())

    def metrics(self, examples: Sequence[Example], scores: Scores) -> dict[str, float]:
        windows: dict[int, list[tuple[Window, NDArray[np.float64]]]] = defaultdict(list)
        for example, values in zip(examples, scores, strict=True):
            assert example.window is not None
            windows[example.line].append((example.window, values))
        may_be_empty = any(not parts[0][0].answers for parts in windows.values())
        matches, f1s = [], []
        for parts in windows.values():
            predicted = best_answer(parts, self.max_answer_tokens, may_be_empty)
            answers = parts[0][0].answers
            matches.append(score.exact_match(predicted, answers))
            f1s.append(score.answer_f1(predicted, answers))
        return {"exact_match": float(np.mean(matches)), "f1": float(np.mean(f1s))}

    def exported_scores(self, model: Any, inputs: "Mapping[str, Tensor]") -> "Tensor":
        import torch

        output = model(**inputs)
        return torch.stack([output.start_logits, output.end_logits], dim=-1)  # [B, S, 2]


def best_answer(
    windows: Sequence[tuple[Window, NDArray[np.float64]]], max_tokens: int, may_be_empty: bool
) -> str:
    """The part of the context with the highest first-plus-last score over all its windows.

    Scores are [S, 2] of each window; with `may_be_empty`, the score of <s> stands for no answer.
    """
    best, best_score = "", -np.inf
    for window, scores in windows:
        in_context = np.flatnonzero(window.spans[:, 0] >= 0)
        if not len(in_context):
            continue
        first, last = scores[in_context, 0], scores[in_context, 1]
        length = np.arange(len(first))[None, :] - np.arange(len(first))[:, None]
        total = np.where(
            (length >= 0) & (length < max_tokens), first[:, None] + last[None, :], -np.inf
        )
        first_at, last_at = np.unravel_index(total.argmax(), total.shape)
        if total[first_at, last_at] > best_score:
            best_score = total[first_at, last_at]
            start = window.spans[in_context[first_at], 0]
            best = window.context[start : window.spans[in_context[last_at], 1]]
    empty = min((float(scores[0].sum()) for _, scores in windows), default=-np.inf)
    return "" if may_be_empty and empty > best_score else best


def _question_window(encoding: Encoding, line: Question, number: int) -> Example:
    spans = np.array(
        [
            _without_space(line.context, *span) if sequence == 1 else (-1, -1)
            for span, sequence in zip(encoding.offsets, encoding.sequence_ids, strict=True)
        ],
        dtype=np.int64,
    )  # [S, 2]
    label = (0, 0)  # no answer in this window
    if line.answers:
        start = line.answers[0].start
        end = start + len(line.answers[0].text)
        starts = np.flatnonzero((spans[:, 0] <= start) & (start < spans[:, 1]))
        ends = np.flatnonzero((spans[:, 0] < end) & (end <= spans[:, 1]))
        if len(starts) and len(ends):
            label = (int(starts[0]), int(ends[-1]))
    answers = tuple(answer.text for answer in line.answers)
    return example_of([encoding], label, number, Window(line.context, answers, spans))


def _without_space(context: str, start: int, end: int) -> tuple[int, int]:
    """The characters of a token without the space that some tokenizers count to the next word."""
    text = context[start:end]
    return start + len(text) - len(text.lstrip() or text), end
