"""Lines of JSON to targets and back to metrics; bad lines are named; order and micro-batches."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from configs.load import ConfigError, UserError, validate
from data_prep.tokenization.tokenizer import roberta_places
from data_prep.tokenization.train import train_tokenizer
from pipeline.finetuning import metrics as score
from pipeline.finetuning.batches import FinetuneBatches
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.examples import ExampleFile, RowEncoder, Window
from pipeline.finetuning.plan import plan_finetuning
from pipeline.finetuning.tasks.answers import best_answers, window_answers
from pipeline.finetuning.tasks.task import TaskConfig
from pipeline.finetuning.tasks.union import FinetuneTask
from tests.pipeline.finetuning.finetune_run import (
    SENTENCE,
    TASKS,
    make_finetune_config,
    make_pretrained,
    write_lines,
)

GOOD: dict[str, dict[str, Any]] = {
    "animal": {"text": "the cat", "label": "cat"},
    "length": {"text": "the cat", "second_text": "the dog", "value": 0.5},
    "tags": {"words": ["the", "cat"], "labels": ["no", "yes"]},
    "where": {"question": "who", "context": "a cat", "answers": [{"text": "cat", "start": 2}]},
    "next": {"text": "the", "choices": ["cat", "dog"], "label": 1},
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> RowEncoder:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(train_tokenizer([SENTENCE] * 60, 270).to_str())
    return RowEncoder(path, roberta_places(270), 16)


def task_of(name: str, path: Path) -> TaskConfig:
    task: TaskConfig = TypeAdapter(FinetuneTask).validate_python(
        {**TASKS[name], "train": str(path)}
    )
    return task


def read(
    name: str,
    folder: Path,
    lines: list[dict[str, Any]],
    encoder: RowEncoder,
    needs_labels: bool = True,
) -> tuple[TaskConfig, ExampleFile]:
    task = task_of(name, write_lines(folder / f"{name}.jsonl", lines))
    return task, task.read(task.train, encoder, needs_labels)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("animal", {"label": "cow"}, "line 2: label 'cow' is not one of cat, dog, hat, rat"),
        ("animal", {"text": None}, "line 2: text: Input should be a valid string, got None"),
        ("length", {"value": "much"}, "line 2: value: Input should be a valid number"),
        ("length", {"value": float("nan")}, "line 2: value: Input should be a finite number"),
        ("tags", {"labels": ["no"]}, "line 2: 1 labels for 2 words"),
        ("tags", {"words": [" cat", "a"]}, "' cat' is empty or has white space around it"),
        (
            "where",
            {"answers": [{"text": "cat", "start": 1}]},
            "'cat' does not stand at character 1",
        ),
        ("where", {"question": "the cat " * 9}, "the question leaves space for"),
        ("next", {"choices": ["cat"]}, "line 2: 1 choices, num_choices is 2"),
        ("next", {"label": 2}, "line 2: label 2 is not a choice: they count from 0"),
    ],
)
def test_bad_lines_are_named(
    tmp_path: Path, encoder: RowEncoder, name: str, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        read(name, tmp_path, [GOOD[name], {**GOOD[name], **change}], encoder)
    assert str(caught.value).startswith(f"{tmp_path / name}.jsonl: 1 error(s)\n  line 2: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text": "a"\n', "line 1: not valid JSON"),
        ("[1]\n", "line 1: not a JSON object"),
        ('{"label": "cat"}\n' * 12, "line 1: text: required, but missing"),
        ('{"label": "cat"}\n' * 12, "and 2 more"),
        ("", "holds no examples"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, encoder: RowEncoder, text: str, message: str) -> None:
    (tmp_path / "file.jsonl").write_text(text)
    task = task_of("animal", tmp_path / "file.jsonl")
    with pytest.raises(UserError, match=message):
        task.read(task.train, encoder)
    with pytest.raises(UserError, match="no such file"):
        task.read(tmp_path / "absent.jsonl", encoder)


def test_each_word_has_its_class_at_its_first_token(tmp_path: Path, encoder: RowEncoder) -> None:
    words = ["cat", "日本", "xyzzy", "dog"]
    line = {"words": words, "labels": ["yes", "no", "yes", "no"]}
    _, file = read("tags", tmp_path, [line], encoder)
    label, row = file.examples[0].label, file.examples[0].rows[0]
    assert len(label) == len(row) == encoder.max_row_tokens
    assert file.num_cut == 1
    assert label[label >= 0].tolist() == [1, 0, 1]  # "dog" was cut off
    assert label[:2].tolist() == [-100, 1]


def test_a_long_context_is_read_in_windows_that_share_tokens(
    tmp_path: Path, encoder: RowEncoder
) -> None:
    context = " ".join(["the dog"] * 12 + ["cat"] + ["the hat"] * 3)
    line = {
        "question": "who",
        "context": context,
        "answers": [{"text": "cat", "start": context.index("cat")}],
    }
    task, file = read("where", tmp_path, [line], encoder)
    assert len(file.examples) > 2
    with_answer = [example for example in file.examples if example.label != (0, 0)]
    assert with_answer
    for example in with_answer:
        first, last = example.label
        assert example.window is not None
        assert context[example.window.spans[first, 0] : example.window.spans[last, 1]] == "cat"
    windows = [example.window for example in file.examples if example.window is not None]
    covered = {tuple(s) for window in windows for s in window.spans.tolist() if s[0] >= 0}
    assert max(end for _, end in covered) == len(context)
    right = [np.full((len(e.rows[0]), 2), -1.0) for e in file.examples]
    for example, scores in zip(file.examples, right, strict=True):
        if example.label != (0, 0):
            scores[example.label[0], 0] = scores[example.label[1], 1] = 5.0
    assert task.metrics(file.examples, right) == {"exact_match": 1.0, "f1": 1.0}


def test_the_best_answer_is_short_and_in_order() -> None:
    spans = np.array([[-1, -1], [0, 3], [4, 7], [8, 11]])
    window = Window("cat dog rat", ("dog",), spans)
    scores = np.array([[9.0, 9.0], [5.0, 0.0], [4.0, 3.0], [0.0, 6.0]])
    two, three = (
        best_answers(window.context, [window_answers(window, scores, longest, 20)], 20)
        for longest in (2, 3)
    )
    assert two.text(None) == "dog rat"
    assert three.text(None) == "cat dog rat"
    assert three.null_difference == 18 - 11
    assert (three.text(6.9), three.text(7.0)) == ("", "cat dog rat")
    assert [(answer.text, answer.score) for answer in two.best[:3]] == [
        ("dog rat", 10.0),
        ("cat dog", 8.0),
        ("dog", 7.0),
    ]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("animal", "label"),
        ("length", "value"),
        ("tags", "labels"),
        ("where", "answers"),
        ("next", "label"),
    ],
)
def test_labels_may_be_missing_only_in_files_to_predict(
    tmp_path: Path, encoder: RowEncoder, name: str, key: str
) -> None:
    without = {k: v for k, v in GOOD[name].items() if k != key}
    path = write_lines(tmp_path / "file.jsonl", [GOOD[name], {**without, "id": "q1"}])
    task = task_of(name, path)
    with pytest.raises(UserError, match=f"line 2: {key}: required, but missing"):
        task.read(path, encoder)
    first, second = task.read(path, encoder, needs_labels=False).examples
    assert first.label is not None
    assert (second.label, second.id) == (None, "q1")
    assert [row.tolist() for row in first.rows] == [row.tolist() for row in second.rows]


def test_predictions_name_labels_words_and_places(tmp_path: Path, encoder: RowEncoder) -> None:
    found = {}
    for name, one in {
        "animal": np.array([0.0, np.log(3.0), 0.0, 0.0]),
        "length": np.array([0.25]),
        "next": np.array([[0.0], [np.log(3.0)]]),
    }.items():
        task, file = read(name, tmp_path, [GOOD[name]], encoder)
        ((_, found[name]),) = task.predictions(file.examples, [one])
    assert found["animal"]["label"] == "dog"
    assert found["animal"]["scores"] == pytest.approx(
        {"cat": 1 / 6, "dog": 1 / 2, "hat": 1 / 6, "rat": 1 / 6}
    )
    assert found["length"] == {"value": 0.25}
    assert found["next"] == {"choice": 1, "scores": pytest.approx([0.25, 0.75])}
    task, file = read("tags", tmp_path, [{"words": ["the", "cat", *["xyzzy"] * 9]}], encoder, False)
    scores = np.zeros((16, 2))
    place = file.examples[0].word_places[1]
    assert place is not None
    scores[place, 1] = np.log(4.0)
    ((_, tags),) = task.predictions(file.examples, [scores])
    assert tags["words"] == ["the", "cat", *["xyzzy"] * 9]
    assert tags["labels"][:3] == ["no", "yes", "no"]
    assert tags["labels"][-1] is None  # cut off
    assert tags["scores"][:2] == pytest.approx([0.5, 0.8])


def test_tags_are_joined_to_entities(tmp_path: Path, encoder: RowEncoder) -> None:
    path = write_lines(tmp_path / "words.jsonl", [{"words": ["the", "red", "cat", "sat"]}])
    tree = {"type": "token_classification", "labels": ["O", "B-X", "I-X"], "train": str(path)}
    task: TaskConfig = TypeAdapter(FinetuneTask).validate_python(tree)
    file = task.read(path, encoder, needs_labels=False)
    scores = np.zeros((len(file.examples[0].rows[0]), 3))
    for place, label in zip(file.examples[0].word_places, (0, 1, 2, 0), strict=True):
        assert place is not None
        scores[place, label] = 1.0
    ((_, found),) = task.predictions(file.examples, [scores])
    assert found["entities"] == [{"type": "X", "first": 1, "last": 2, "text": "red cat"}]


def test_the_prediction_of_a_question_is_one_for_all_its_windows(
    tmp_path: Path, encoder: RowEncoder
) -> None:
    context = " ".join(["the dog"] * 12 + ["cat"])
    lines = [{"question": "who", "context": text} for text in (context, "a cat")]
    task, file = read("where", tmp_path, lines, encoder, False)
    scores = [np.zeros((len(example.rows[0]), 2)) for example in file.examples]
    window = file.examples[-2].window
    assert window is not None
    scores[-2][window.spans[:, 0] == context.index("cat"), 0] = 4.0  # in the last window
    scores[-2][window.spans[:, 1] == len(context), 1] = 4.0
    scores[-1][0] = 1.0  # <s>: the second question has no answer
    (first, one), (second, other) = task.predictions(file.examples, scores)
    assert (first.line, second.line) == (1, 2)
    assert (one["answer"], one["start"]) == ("cat", context.index("cat"))
    assert (one["score"], one["no_answer_score"], one["has_answer"]) == (8.0, 0.0, True)
    assert (other["no_answer_score"], other["has_answer"]) == (2.0, False)


def test_metrics() -> None:
    assert score.accuracy([1, 2, 3], [1, 2, 0]) == pytest.approx(2 / 3)
    # class 0: 4/5; class 1: 0, it is only predicted; class 2: neither, left out
    assert score.macro_f1([0, 0, 1], [0, 0, 0]) == pytest.approx((4 / 5 + 0) / 2)
    assert score.pearson([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert score.pearson([1, 2, 3], [3, 2, 4]) == pytest.approx(0.5)
    assert np.isnan(score.pearson([1, 1], [1, 2]))
    assert score.exact_match("The cat.", ["cat", "dog"]) == 1
    assert score.exact_match("", []) == 1
    assert score.exact_match("a dog", ["cat"]) == 0
    assert score.answer_f1("black cat", ["the cat", "dog"]) == pytest.approx(2 / 3)
    assert score.answer_f1("dog", []) == 0


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    folder = tmp_path_factory.mktemp("run")
    return make_finetune_config(make_pretrained(folder / "pretrained"), folder / "run")


def test_every_epoch_takes_each_example_once_at_any_number_of_ranks(config: FinetuneConfig) -> None:
    one = FinetuneBatches(plan_finetuning(config, 1, is_first=True), 0)
    three = [FinetuneBatches(plan_finetuning(config, 3, is_first=True), r) for r in range(3)]
    seen = []
    for number in range(config.num_steps):
        step = one.step(number)
        parts = [batches.step(number) for batches in three]
        assert all(part.label_counts == step.label_counts for part in parts)
        used = [
            batch
            for place in range(three[0].per_step)
            for batch in (part.micro_batches[place] for part in parts)
        ][: len(step.micro_batches)]
        for batch, other in zip(step.micro_batches, used, strict=True):
            assert batch.tokens.equal(other.tokens)
            assert batch.dropout_key == other.dropout_key
        for batch in step.micro_batches:
            labels = batch.targets["length"][:, 0]
            rows = batch.tokens[~labels.isnan()]
            seen += [tuple(row[row != 1].tolist()) for row in rows]
    first, second = seen[:24], seen[24:]
    assert len(second) == 24
    assert sorted(first) == sorted(second)
    assert first != second
    padding = [batches.step(0).micro_batches[-1] for batches in three]
    assert any((batch.targets["animal"] == -100).all() for batch in padding)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": {"mlm": {**TASKS["length"], "train": "x"}}}, "and is not 'mlm'"),
        ({"micro_rows": 1}, "less than the 2 rows of one example of tasks.next"),
        ({"schedule": {"warmup_rows": 999999}}, "longer than the schedule"),
        ({"tasks": {"a": {**TASKS["animal"], "train": "x", "labels": ["u", "u"]}}}, "named twice"),
    ],
)
def test_errors_in_the_config(
    config: FinetuneConfig, changes: dict[str, Any], message: str
) -> None:
    tree = json.loads(config.model_dump_json())
    with pytest.raises(ConfigError, match=message):
        validate({**tree, **changes}, FinetuneConfig, origin="test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": {"type": "run", "path": "nowhere"}}, "nowhere/checkpoints: no checkpoint"),
        ({"parallel": {"tensor": 3}}, "parallel.tensor 3 does not divide the 1 ranks"),
        ({"max_row_tokens": 64}, "max_row_tokens 64 is more than the 32 of the model"),
    ],
)
def test_what_does_not_fit_the_start_is_refused(
    config: FinetuneConfig, changes: dict[str, Any], message: str
) -> None:
    tree = json.loads(config.model_dump_json())
    changed = validate({**tree, **changes}, FinetuneConfig, origin="test")
    with pytest.raises(UserError, match=message):
        plan_finetuning(changed, 1, is_first=True)


def test_a_tokenizer_of_a_different_model_is_refused(
    config: FinetuneConfig, tmp_path: Path
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(train_tokenizer([SENTENCE[::-1]] * 60, 270).to_str())
    tree = json.loads(config.model_dump_json())
    tree["start"]["tokenizer"] = str(path)
    with pytest.raises(UserError, match="not the tokenizer that"):
        plan_finetuning(validate(tree, FinetuneConfig, origin="test"), 1, is_first=True)
