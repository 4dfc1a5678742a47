"""Metrics of predictions against labels: small pure functions on numpy arrays."""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def accuracy(predicted: ArrayLike, labels: ArrayLike) -> float:
    """The share of `predicted` that equals `labels`; NaN without labels."""
    hits = np.asarray(predicted) == np.asarray(labels)
    return float(hits.mean()) if hits.size else float("nan")


def macro_f1(predicted: ArrayLike, labels: ArrayLike, num_labels: int) -> float:
    """The mean F1 of all classes that are labelled or predicted at all; NaN without labels."""
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    scores = []
    for label in range(num_labels):
        right = int(((predicted == label) & (labels == label)).sum())
        size = int((predicted == label).sum()) + int((labels == label).sum())
        if size:
            scores.append(2 * right / size)
    return float(np.mean(scores)) if scores else float("nan")


def pearson(first: ArrayLike, second: ArrayLike) -> float:
    """The correlation of two series; NaN where one of them is constant or shorter than two."""
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def normalise_answer(text: str) -> str:
    """`text` as SQuAD compares it: lower case, without punctuation, articles and extra spaces."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(predicted: str, answers: Sequence[str]) -> float:
    """1.0 if `predicted` is one of `answers` ("" where there are none), 0.0 if not.

    Source: Rajpurkar et al. 2016, "SQuAD", section 6.1.
    """
    wanted = {normalise_answer(answer) for answer in answers} or {""}
    return float(normalise_answer(predicted) in wanted)


def answer_f1(predicted: str, answers: Sequence[str]) -> float:
    """The best F1 of the words of `predicted` against those of one answer (Rajpurkar et al.)."""
    words = normalise_answer(predicted).split()
    return max(_word_f1(words, normalise_answer(a).split()) for a in answers or ("",))


def _word_f1(first: list[str], second: list[str]) -> float:
    if not first or not second:
        return float(first == second)
    shared = sum((Counter(first) & Counter(second)).values())
    return 2 * shared / (len(first) + len(second))
