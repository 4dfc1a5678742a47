"""Metrics against values worked out by hand, and what tasks report."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.finetuning import metrics as score
from pipeline.finetuning.examples import Window
from pipeline.finetuning.tasks.answers import answer_metrics, best_answers, window_answers
from pipeline.finetuning.tasks.tagging import num_broken, tagging_of, wrong_label
from tests.pipeline.finetuning.task_files import make_encoder, task_of
from tests.pipeline.finetuning.test_inputs import TAGS, written


def test_classes() -> None:
    predicted, labels = [1, 1, 0, 0, 1], [1, 0, 0, 0, 1]
    assert score.accuracy(predicted, labels) == pytest.approx(4 / 5)
    assert score.binary_f1(predicted, labels) == pytest.approx(4 / 5)
    # (tp tn - fp fn) / sqrt((tp + fp) (tp + fn) (tn + fp) (tn + fn))
    assert score.matthews(predicted, labels) == pytest.approx(4 / np.sqrt(3 * 2 * 3 * 2))
    assert score.matthews([0, 0], [0, 1]) == 0
    assert np.isnan(score.accuracy([], []))
    assert score.spearman([1, 2, 3], [1, 10, 100]) == pytest.approx(1)
    assert np.isnan(score.spearman([1, 1], [1, 2]))


def test_labels_that_are_decided_one_by_one() -> None:
    labels = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0]])
    predicted = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0]])
    assert score.micro_f1(predicted, labels) == pytest.approx(2 * 2 / (3 + 3))
    assert score.macro_f1(predicted, labels) == pytest.approx((1 + 1 + 0) / 3)
    assert score.accuracy(predicted, labels) == pytest.approx(1 / 3)


def test_entities_are_whole() -> None:
    labels = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-PER"]]
    found = [["B-PER", "O", "O", "B-LOC"], ["O", "I-PER"]]
    assert score.entity_scores(found, labels, "iob2") == pytest.approx((1 / 2, 1 / 3, 2 / 5))
    # conlleval lets an entity start with I-
    assert score.entity_scores(found, labels, "conlleval") == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert score.entity_scores([["O"]], [["O"]], "iob2") == (0, 0, 0)
    spans = [["B-PER", "E-PER", "S-LOC"]]
    broken = [["B-PER", "I-PER", "S-LOC"]]
    assert score.entity_scores(broken, spans, "bioes") == pytest.approx((1, 1 / 2, 2 / 3))
    assert score.entity_scores([["B-X", "L-X", "U-Y"]], [["B-X", "L-X", "U-Y"]], "bilou")[2] == 1
    adjacent = [["I-PER", "B-PER"]]
    assert score.entity_scores(adjacent, adjacent, "iob1") == (1, 1, 1)


@pytest.mark.parametrize(
    ("labels", "scheme"),
    [
        (["O", "B-PER", "I-PER"], "iob2"),
        (["O", "I-PER"], "iob1"),
        (["O", "B-PER", "I-PER", "E-PER", "S-PER"], "bioes"),
        (["O", "B-PER", "I-PER", "L-PER", "U-PER"], "bilou"),
        (["NOUN", "VERB"], "none"),
        (["O", "X-PER"], "none"),
        (["0", "1"], "none"),
    ],
)
def test_the_scheme_follows_from_the_labels(labels: list[str], scheme: str) -> None:
    assert tagging_of(labels) == scheme
    if scheme != "none":
        assert wrong_label(labels, tagging_of(labels)) is None


@pytest.mark.parametrize(
    ("scheme", "tags", "broken"),
    [
        ("iob2", "O I-X I-X B-X I-Y", 2),
        ("iob2", "B-X I-X O B-X B-X", 0),
        ("iob1", "I-X B-X O B-X", 1),
        ("bioes", "B-X E-X S-X O", 0),
        ("bioes", "B-X O E-X I-X", 4),  # B- and I- are not ended, E- and I- have no start
        ("bioes", "O B-X", 1),
        ("bilou", "B-X I-X L-X U-X", 0),
        ("bilou", "B-X L-Y", 1),
        ("conlleval", "I-X E-X", 0),
    ],
)
def test_tags_that_do_not_fit_are_counted(scheme: Any, tags: str, broken: int) -> None:
    assert num_broken(tags.split(), scheme) == broken


def test_squad_2_takes_the_best_threshold() -> None:
    differences = np.array([-3.0, -1.0, 0.5, 2.0])
    has_none = np.array([False, True, False, True])
    scores = np.array([1.0, 0.0, 0.5, 0.0])
    # answered up to -3: 1 + 2 right "none"; up to 0.5: 1 + 0.5 + 1
    assert score.best_threshold(differences, scores, has_none) == pytest.approx((3 / 4, -3.0))
    assert score.best_threshold(differences, np.zeros(4), has_none)[0] == 0.5  # all "none"
    same = np.zeros(4)
    best, at = score.best_threshold(same, scores, has_none)  # one threshold for equal differences
    assert (best, at) == (0.5, -1.0)


def brute_force(differences: Any, scores: Any, has_none: Any) -> float:
    limits = [*differences, differences.min() - 1]
    return max(float(np.where(differences > limit, has_none, scores).mean()) for limit in limits)


def test_no_threshold_is_better() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        differences = generator.integers(-3, 3, 12).astype(float)
        has_none = generator.random(12) < 0.4
        scores = np.where(has_none, 0.0, generator.random(12))
        best, at = score.best_threshold(differences, scores, has_none)
        assert best == pytest.approx(brute_force(differences, scores, has_none))
        assert best == pytest.approx(np.where(differences > at, has_none, scores).mean())


def test_answers_over_windows_are_told_once() -> None:
    context = "cat dog rat"
    whole = np.array([[-1, -1], [0, 3], [4, 7], [8, 11]])
    first = window_answers(
        Window(context, ("dog",), whole[:3]), np.array([[1.0, 1], [3, 0], [2, 4]]), 1, 20
    )
    second = window_answers(
        Window(context, ("dog",), whole[[0, 2, 3]]), np.array([[0.5, 0], [2, 5], [0, 1]]), 1, 20
    )
    found = best_answers(context, [first, second], 2)
    assert [(a.text, a.start, a.end, a.score) for a in found.best] == [
        ("dog", 4, 7, 7.0),
        ("cat", 0, 3, 3.0),
    ]
    assert found.null_score == 0.5
    assert found.as_json(0.0)["has_answer"]
    found_none = best_answers(context, [np.array([[-1.0, -1.0, 2.0]])], 2)
    assert (found_none.text(0.0), found_none.text(None)) == ("", "")
    questions = [(found, ("dog",)), (found, ("cat", "the dog")), (found_none, ())]
    result = answer_metrics(questions, 0.0)
    assert result["f1"] == result["exact_match"] == result["best_f1"] == 1
    assert result["no_answer_accuracy"] == 1
    assert set(answer_metrics(questions[:2], 0.0)) == {"f1", "exact_match"}
    strict = answer_metrics(questions, -7.0)  # "none" must score 7 less than an answer
    assert strict["exact_match"] == pytest.approx(1 / 3)
    assert strict["best_exact_match"] == 1


def test_the_main_metric_is_a_choice() -> None:
    assert task_of("a.tsv").main_metric == "accuracy"
    assert task_of("a.tsv", metric="matthews").main_metric == "matthews"
    assert task_of("a.conll", **TAGS).main_metric == "entity_f1"
    assert task_of("a.conll", **{**TAGS, "tagging": "none"}).main_metric == "accuracy"
    assert task_of("a.json", type="span_question_answering").main_metric == "f1"


def test_entities_of_a_file(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path)
    text = "the O\nred B-ANI\ncat I-ANI\n\nhat B-ANI\n"
    task = task_of(written(tmp_path, "a.conll", text), **TAGS)
    file = task.read(task.train, encoder)
    scores = [np.zeros((len(example.rows[0]), 3)) for example in file.examples]
    for example, values in zip(file.examples, scores, strict=True):
        places = np.arange(len(values))
        values[places, np.maximum(example.label, 0)] = 1.0
    perfect = task.metrics(file.examples, scores)
    assert perfect["entity_f1"] == perfect["accuracy"] == 1
    scores[1][:] = 0.0  # O
    assert task.metrics(file.examples, scores)["entity_recall"] == 0.5


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        ('{"text": "cat", "labels": ["b", "c"]}', {}),
        ('{"text": "cat", "labels": [0, 1, 1]}', {"labels_as": "flags"}),
        ('{"text": "cat", "labels": [0.0, 1.0, true]}', {"labels_as": "flags"}),
        ('{"text": "cat", "a": 0, "b": 1, "c": 1}', {"fields": {"labels": ["a", "b", "c"]}}),
        ('{"text": "cat", "labels": "c; b"}', {"label_separator": ";"}),
    ],
)
def test_any_number_of_labels(tmp_path: Path, line: str, keys: dict[str, Any]) -> None:
    keys = {"type": "multi_label_classification", "labels": ["a", "b", "c"], **keys}
    task = task_of(written(tmp_path, "a.jsonl", line + "\n"), **keys)
    encoder = make_encoder(tmp_path)
    (example,) = task.read(task.train, encoder).examples
    assert example.label.tolist() == [0, 1, 1]
    targets = task.targets([example, example], 8)
    assert (targets.shape, task.num_used(targets)) == ((2, 3), 6)
    assert task.num_used(task.no_targets(2, 8)) == 0
    found = task.prediction(example, np.array([-1.0, 0.1, 2.0]))
    assert found["labels"] == ["b", "c"]
    found = task_of("a.jsonl", **{**keys, "threshold": 0.6}).prediction(
        example, np.array([-1.0, 0.1, 2.0])
    )
    assert found["labels"] == ["c"]
