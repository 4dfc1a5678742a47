"""Answers in a context from the scores of its windows, and their metrics as SQuAD defines them.

S tokens in a row, N answers.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.finetuning import metrics as score
from pipeline.finetuning.examples import Window

_NO_ANSWER = -1.0
"""In the place of characters."""


@dataclass(frozen=True)
class FoundAnswer:
    """A part of a context as an answer."""

    text: str
    start: int
    end: int
    """Characters of the context."""
    score: float
    """First-plus-last score."""


@dataclass(frozen=True)
class Answers:
    """The best answers to a question over all its windows."""

    best: tuple[FoundAnswer, ...]
    """Best first; none where no token of the context fits in a row."""
    null_score: float
    """The score of there being no answer: the smallest of all windows, as in BERT."""

    @property
    def null_difference(self) -> float:
        """By how much "no answer" scores higher than the best answer."""
        return self.null_score - self.best[0].score if self.best else float("inf")

    def text(self, threshold: float | None) -> str:
        """The predicted answer: "" where `null_difference` is above `threshold` (None: never)."""
        if threshold is not None and self.null_difference > threshold:
            return ""
        return self.best[0].text if self.best else ""

    def as_json(self, threshold: float) -> dict[str, Any]:
        """The best answer, whether it should be given, and the others."""
        best = self.best[0] if self.best else None
        return {
            "answer": best.text if best else "",
            "start": best.start if best else None,
            "score": best.score if best else None,
            "no_answer_score": self.null_score,
            "has_answer": self.null_difference <= threshold,
            "answers": [asdict(answer) for answer in self.best],
        }


def window_answers(
    window: Window, scores: NDArray[np.float64], max_tokens: int, num_best: int
) -> NDArray[np.float64]:
    """[1 + N, 3]: (-1, -1, score of no answer), then (first character, end, score), best first.

    `scores` [S, 2] of first and last tokens; no answer has the score of the first token (<s>).
    """
    found = [np.array([[_NO_ANSWER, _NO_ANSWER, scores[0].sum()]])]
    in_context = np.flatnonzero(window.spans[:, 0] >= 0)
    num = len(in_context)
    if num:
        first, last = scores[in_context, 0], scores[in_context, 1]
        longest = min(max_tokens, num)
        total = np.concatenate([first[: num - n] + last[n:] for n in range(longest)])
        starts = np.concatenate([np.arange(num - n) for n in range(longest)])
        lengths = np.repeat(np.arange(longest), num - np.arange(longest))
        order = np.argsort(-total, kind="stable")[:num_best]
        begin = window.spans[in_context[starts[order]], 0]
        end = window.spans[in_context[starts[order] + lengths[order]], 1]
        found.append(np.stack([begin, end, total[order]], axis=1).astype(np.float64))
    return np.concatenate(found)


def best_answers(context: str, windows: Sequence[NDArray[np.float64]], num_best: int) -> Answers:
    """The best answers in `context` over all windows of one question: their `window_answers`."""
    found: dict[tuple[int, int], float] = {}
    for answers in windows:
        for begin, end, value in answers[1:]:
            place = (int(begin), int(end))  # windows overlap
            found[place] = max(value, found.get(place, -np.inf))
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:num_best]
    return Answers(
        tuple(FoundAnswer(context[b:e], b, e, float(value)) for (b, e), value in ranked),
        min(float(answers[0, 2]) for answers in windows),
    )


def answer_metrics(
    questions: Sequence[tuple[Answers, Sequence[str]]], threshold: float
) -> dict[str, float]:
    """Exact match and F1 of (found answers, correct ones; none: not answerable).

    If some have no answer (SQuAD 2.0, Rajpurkar et al. 2018), also the best scores that a threshold
    of the null difference gives, that threshold, and the scores of either kind of question.
    """
    has_answer = np.array([bool(answers) for _, answers in questions])
    limit = None if has_answer.all() else threshold
    texts = [found.text(limit) for found, _ in questions]
    golds = [answers for _, answers in questions]
    pairs = list(zip(texts, golds, strict=True))
    exact = np.array([score.exact_match(text, answers) for text, answers in pairs])
    f1 = np.array([score.answer_f1(text, answers) for text, answers in pairs])
    result = {"exact_match": float(exact.mean()), "f1": float(f1.mean())}
    if limit is None:
        return result
    differences = np.array([found.null_difference for found, _ in questions])
    forced = [(found.text(None), answers) for found, answers in questions]
    for name, measure in (("exact_match", score.exact_match), ("f1", score.answer_f1)):
        answered = np.array([measure(text, answers) for text, answers in forced])
        best, at = score.best_threshold(differences, answered, ~has_answer)
        result |= {f"best_{name}": best, f"best_{name}_threshold": at}
    if has_answer.any():
        result["has_answer_f1"] = float(f1[has_answer].mean())
    result["no_answer_accuracy"] = float(exact[~has_answer].mean())
    return result
