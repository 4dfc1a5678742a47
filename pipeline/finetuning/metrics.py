"""Metrics of predictions against labels, by scikit-learn, scipy and seqeval; SQuAD's by hand.

The packages are imported late: reading a config needs none of them.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_NAN = float("nan")


def accuracy(predicted: ArrayLike, labels: ArrayLike) -> float:
    """The share of `predicted` that equals `labels` (of rows, if they have two dimensions); NaN
    without labels."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, predicted)) if np.size(labels) else _NAN


def macro_f1(predicted: ArrayLike, labels: ArrayLike) -> float:
    """The mean F1 of all classes that are labelled or predicted at all (of every column, if they
    have two dimensions); NaN without labels."""
    return _f1(predicted, labels, "macro")


def micro_f1(predicted: ArrayLike, labels: ArrayLike) -> float:
    """The F1 of all decisions together; NaN without labels."""
    return _f1(predicted, labels, "micro")


def binary_f1(predicted: ArrayLike, labels: ArrayLike) -> float:
    """The F1 of class 1 against class 0, as GLUE reports it of MRPC and QQP."""
    return _f1(predicted, labels, "binary")


def matthews(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Matthews' correlation of two classes, and its generalisation to more (Gorodkin 2004); 0 where
    all are predicted or labelled alike."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predicted)) if np.size(labels) else _NAN


def pearson(first: ArrayLike, second: ArrayLike) -> float:
    """The correlation of two series; NaN where one of them is constant or shorter than two."""
    from scipy.stats import pearsonr

    if not _vary(first, second):
        return _NAN
    return float(pearsonr(np.asarray(first, np.float64), np.asarray(second, np.float64)).statistic)


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """The correlation of the ranks of two series; NaN where `pearson` is."""
    from scipy.stats import spearmanr

    if not _vary(first, second):
        return _NAN
    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    return float(spearmanr(x, y).statistic)


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The probabilities of the classes in the last dimension."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def entities(tags: Sequence[str], tagging: str) -> list[tuple[str, int, int]]:
    """(type, first word, last word) of each entity in the tags of a sentence; as `entity_scores`
    counts them."""
    from seqeval.metrics.sequence_labeling import get_entities
    from seqeval.scheme import Entities

    if tagging == "conlleval":
        return [(kind, first, last) for kind, first, last in get_entities(list(tags))]
    (found,) = Entities([list(tags)], _scheme(tagging)).entities
    return [(entity.tag, entity.start, entity.end - 1) for entity in found]


def _scheme(tagging: str) -> Any:
    from seqeval import scheme

    schemes = {"iob1": scheme.IOB1, "iob2": scheme.IOB2, "bioes": scheme.IOBES}
    return {**schemes, "bilou": scheme.BILOU}[tagging]


def entity_scores(
    predicted: Sequence[Sequence[str]], labels: Sequence[Sequence[str]], tagging: str
) -> tuple[float, float, float]:
    """(precision, recall, F1) of the entities in sentences of tags, over all types together.

    `tagging` is a scheme that is taken strictly, or "conlleval". 0 where there are no entities.
    """
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support
    from seqeval.metrics.v1 import precision_recall_fscore_support as strict_scores

    true, found = [list(tags) for tags in labels], [list(tags) for tags in predicted]
    if tagging == "conlleval":
        scores = precision_recall_fscore_support(true, found, average="micro", zero_division=0)
    else:
        scores = strict_scores(
            true, found, average="micro", zero_division=0, scheme=_scheme(tagging)
        )
    precision, recall, f1, _ = scores
    return float(precision), float(recall), float(f1)


def normalise_answer(text: str) -> str:
    """`text` as SQuAD compares it: lower case, without punctuation, articles and extra spaces."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(predicted: str, answers: Sequence[str]) -> float:
    """1.0 if `predicted` is one of `answers` ("" where there are none), 0.0 if not.

    Source: Rajpurkar et al. 2016, "SQuAD", section 6.1.
    """
    return float(normalise_answer(predicted) in _normalised(answers))


def answer_f1(predicted: str, answers: Sequence[str]) -> float:
    """The best F1 of the words of `predicted` against those of one answer (Rajpurkar et al.)."""
    words = normalise_answer(predicted).split()
    return max(_word_f1(words, answer.split()) for answer in _normalised(answers))


def best_threshold(
    differences: NDArray[np.float64], scores: NDArray[np.float64], has_none: NDArray[np.bool_]
) -> tuple[float, float]:
    """(the best mean score, the threshold that gives it): questions whose `differences` are above
    the threshold are predicted to have no answer.

    `scores` are those of the best answer of each question, `has_none` says which have no answer.
    Rajpurkar et al. 2018, "Know What You Don't Know", section 5.
    """
    order = np.argsort(differences, kind="stable")
    sorted_differences = differences[order]
    # Before the first: no question is answered. Each answered one trades a right "no answer".
    gains = np.where(has_none, scores - 1.0, scores)[order]
    totals = has_none.sum() + np.concatenate([[0.0], np.cumsum(gains)])
    # Equal differences are on the same side of every threshold.
    is_limit = np.concatenate([[True], sorted_differences[1:] > sorted_differences[:-1], [True]])
    totals = np.where(is_limit, totals, -np.inf)
    best = int(totals.argmax())
    threshold = sorted_differences[best - 1] if best else sorted_differences[0] - 1.0
    return float(totals[best] / len(differences)), float(threshold)


def _vary(first: ArrayLike, second: ArrayLike) -> bool:
    x, y = np.asarray(first), np.asarray(second)
    return len(x) > 1 and bool(np.ptp(x) > 0) and bool(np.ptp(y) > 0)


def _f1(predicted: ArrayLike, labels: ArrayLike, average: str) -> float:
    from sklearn.metrics import f1_score

    if not np.size(labels):
        return _NAN
    return float(f1_score(labels, predicted, average=average, zero_division=0))


def _normalised(answers: Sequence[str]) -> set[str]:
    """Correct answers as they are compared; one that is nothing but articles does not count."""
    return {text for answer in answers if (text := normalise_answer(answer))} or {""}


def _word_f1(first: list[str], second: list[str]) -> float:
    if not first or not second:
        return float(first == second)
    shared = sum((Counter(first) & Counter(second)).values())
    return 2 * shared / (len(first) + len(second))
