"""Answering questions with a part of a text (Rajpurkar et al. 2016, SQuAD), as a fine-tuning task.

S tokens in a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    check_label,
    example_file,
    example_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    from model.task_heads import TaskHeadConfig


ScoredWindow = tuple[Window, NDArray[np.float64]]
"""A window of a context with its scores [S, 2]."""


class Answer(Line):
    """An answer, and the character of the context at which it starts."""

    text: str = Field(min_length=1)
    start: NonNegativeInt


class Question(Line):
    """A question whose answers, if there are any, stand in its context."""

    question: str
    context: str
    answers: tuple[Answer, ...] | None = None


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

    def read(self, path: Path, encoder: RowEncoder, needs_labels: bool = True) -> ExampleFile:
        def examples_of(line: Question, number: int) -> list[Example]:
            check_label(line.answers, "answers", needs_labels)
            for answer in line.answers or ():
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
        windows = _windows_by_line(examples, scores)
        may_be_empty = any(not parts[0][0].answers for _, parts in windows)
        matches, f1s = [], []
        for _, parts in windows:
            predicted = best_answer(parts, self.max_answer_tokens).text_or_none(may_be_empty)
            answers = parts[0][0].answers
            matches.append(score.exact_match(predicted, answers))
            f1s.append(score.answer_f1(predicted, answers))
        return {"exact_match": float(np.mean(matches)), "f1": float(np.mean(f1s))}

    def predictions(
        self, examples: Sequence[Example], scores: Scores
    ) -> list[tuple[Example, dict[str, Any]]]:
        found = []
        for example, parts in _windows_by_line(examples, scores):
            best = best_answer(parts, self.max_answer_tokens)
            one = {
                "answer": best.text,
                "start": best.start,
                "score": best.score,
                "no_answer_score": best.no_answer_score,
                "has_answer": not best.is_empty,
            }
            found.append((example, one))
        return found

    def exported_scores(self, model: Any, inputs: "Mapping[str, Tensor]") -> "Tensor":
        import torch

        output = model(**inputs)
        return torch.stack([output.start_logits, output.end_logits], dim=-1)  # [B, S, 2]


def _windows_by_line(
    examples: Sequence[Example], scores: Scores
) -> list[tuple[Example, list[ScoredWindow]]]:
    """For each question, its first example and the scores of all its windows."""
    windows: dict[int, tuple[Example, list[ScoredWindow]]] = {}
    for example, values in zip(examples, scores, strict=True):
        assert example.window is not None
        windows.setdefault(example.line, (example, []))[1].append((example.window, values))
    return list(windows.values())


@dataclass(frozen=True)
class BestAnswer:
    """The part of a context that answers a question best, and whether it should."""

    text: str
    start: int | None
    """Its first character; None if no window has room for an answer."""
    score: float
    """The scores of its first and its last token together."""
    no_answer_score: float
    """The score of <s> as first and last token, which stands for no answer: of the window where it
    is lowest, since an answer in one window is enough."""

    @property
    def is_empty(self) -> bool:
        """Whether no answer scores higher than the best one."""
        return self.start is None or self.no_answer_score > self.score

    def text_or_none(self, may_be_empty: bool) -> str:
        """The text; "" for no answer, where that is possible."""
        return "" if may_be_empty and self.is_empty else self.text


def best_answer(windows: Sequence[ScoredWindow], max_tokens: int) -> BestAnswer:
    """The part of the context with the highest first-plus-last score over all its windows.

    Scores are [S, 2] of each window.
    """
    best, best_score, best_start = "", -np.inf, None
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
            best_start = start = int(window.spans[in_context[first_at], 0])
            best = window.context[start : window.spans[in_context[last_at], 1]]
    empty = min((float(scores[0].sum()) for _, scores in windows), default=-np.inf)
    return BestAnswer(best, best_start, float(best_score), empty)


def _question_window(encoding: Encoding, line: Question, number: int) -> Example:
    spans = np.array(
        [
            _without_space(line.context, *span) if sequence == 1 else (-1, -1)
            for span, sequence in zip(encoding.offsets, encoding.sequence_ids, strict=True)
        ],
        dtype=np.int64,
    )  # [S, 2]
    label: tuple[int, int] | None = (0, 0)  # no answer in this window
    if line.answers is None:
        label = None
    elif line.answers:
        start = line.answers[0].start
        end = start + len(line.answers[0].text)
        starts = np.flatnonzero((spans[:, 0] <= start) & (start < spans[:, 1]))
        ends = np.flatnonzero((spans[:, 0] < end) & (end <= spans[:, 1]))
        if len(starts) and len(ends):
            label = (int(starts[0]), int(ends[-1]))
    answers = tuple(answer.text for answer in line.answers or ())
    window = Window(line.context, answers, spans)
    return example_of([encoding], label, number, line, window=window)


def _without_space(context: str, start: int, end: int) -> tuple[int, int]:
    """The characters of a token without the space that some tokenizers count to the next word."""
    text = context[start:end]
    return start + len(text) - len(text.lstrip() or text), end
