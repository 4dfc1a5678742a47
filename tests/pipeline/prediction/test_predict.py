"""`python -m pipeline.predict`: equal to what training evaluates, in order, resumable."""

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from configs import log
from configs.load import ConfigError, UserError
from pipeline import predict
from pipeline.checkpoint.manifest import find_checkpoint
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.export import export_tasks
from pipeline.finetuning.tasks.task_file import TASK_NAME
from pipeline.prediction import predict as predicting
from pipeline.prediction.parts import FOLDER_SUFFIX, Part, Parts, parts_of_lines
from pipeline.prediction.task_model import TaskModel, open_exported
from pipeline.run.run_folder import checkpoints_folder
from pipeline.tracking.event_log import LOG_NAME, read_events
from pipeline.tracking.label_tables import read_label_tables
from tests.gloo import RankError, run_ranks
from tests.pipeline.finetuning.finetune_run import (
    ANIMALS,
    TASKS,
    make_finetune_config,
    make_pretrained,
    run_finetuning,
    write_lines,
)

LABELS = ("label", "value", "labels", "answers")
# Two nearly equal predictions may change places by the rounding of two ranks: of 24 values one
# exchange of neighbouring ranks moves this correlation by at most 6 * 2 * 23 / (24**3 - 24).
TOLERANCES = {"spearman": 0.02}


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    """A finished run of all five tasks at tensor parallel 2, with its exports."""
    pretrained = make_pretrained(tmp_path_factory.mktemp("pretrained"))
    config = make_finetune_config(
        pretrained, tmp_path_factory.mktemp("run") / "run", parallel={"tensor": 2}, mlm=None
    )
    run_ranks(run_finetuning, 2, config)
    checkpoint, problems = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None, problems
    run_ranks(export_tasks, 1, config, checkpoint, config.output / "hf")
    return config


def command(*words: str | Path) -> None:
    """The command, in a process of its own."""
    run_ranks(_main, 1, [str(word) for word in words])


def _main(words: list[str]) -> None:
    log.configure()
    sys.argv = ["predict", *words]
    predict.main()


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def file_of(config: FinetuneConfig, name: str) -> Path:
    return config.output.parent / "tasks" / f"{name}.jsonl"


def assert_close(first: Any, second: Any) -> None:
    """Fails where two predictions differ by more than rounding."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_close(first[key], second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_close(one, other)
    else:
        assert first == (pytest.approx(second, abs=1e-5) if isinstance(first, float) else second)


@pytest.mark.parametrize("name", list(TASKS))
def test_predictions_are_those_of_the_evaluation_in_training(
    finetuned: FinetuneConfig, tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    events = [event for event, _ in read_events(finetuned.output / LOG_NAME)]
    last = [event["values"] for event in events if event["kind"] == "metrics"][-1]
    trained = {
        key.removeprefix("dev_").removesuffix(f"/{name}"): value
        for key, value in last.items()
        if key.startswith("dev_") and key.endswith(f"/{name}")
    }
    assert trained
    found: list[list[dict[str, Any]]] = []
    for folder in ((finetuned.output / "hf" / name,), (finetuned.output, "--task", name)):
        capfd.readouterr()
        output = tmp_path / f"{len(found)}.jsonl"
        command(*folder, file_of(finetuned, name), "--output", output)
        printed = [line.split() for line in capfd.readouterr().out.splitlines()]
        values = {words[0]: float(words[1]) for words in printed if words and words[0] in trained}
        assert values.keys() == trained.keys()
        for metric, value in values.items():
            assert value == pytest.approx(trained[metric], abs=TOLERANCES.get(metric, 5e-4)), metric
        found.append(lines_of(output))
    assert [one["line"] for one in found[0]] == list(range(1, 25))
    assert_close(found[0], found[1])


def test_a_run_records_what_its_evaluation_found_for_each_label(
    finetuned: FinetuneConfig, tmp_path: Path
) -> None:
    tables = read_label_tables(finetuned.output)
    assert set(tables) == {"animal", "inside", "tags"}
    step, table = tables["animal"]
    assert (step, table.labels) == (6, ANIMALS)
    words = (finetuned.output, "--task", "animal", file_of(finetuned, "animal"))
    command(*words, "--output", tmp_path / "a.jsonl")
    predicted = [one["label"] for one in lines_of(tmp_path / "a.jsonl")]
    assert table.num_predicted.tolist() == [predicted.count(label) for label in ANIMALS]
    assert table.num_labelled.tolist() == [6, 6, 6, 6]
    pictures = {path.name for path in (finetuned.output / "plots").iterdir()}
    assert {"confusion-animal.png", "labels-tags.csv", "task-length.png", "loss.png"} <= pictures


def test_text_without_labels_keeps_its_order_and_ids(
    finetuned: FinetuneConfig, tmp_path: Path
) -> None:
    folder = finetuned.output / "hf"
    texts = [" ".join(["the cat"] * (1 + number * 7 % 11)) for number in range(9)]
    path = write_lines(
        tmp_path / "new.jsonl", [{"id": f"t{n}", "text": t} for n, t in enumerate(texts)]
    )
    command(folder / "length", path, "--output", tmp_path / "all.jsonl", "--batch-tokens", "40")
    together = lines_of(tmp_path / "all.jsonl")
    assert [one["id"] for one in together] == [f"t{number}" for number in range(9)]
    for number, text in enumerate(texts):
        single = write_lines(tmp_path / "one.jsonl", [{"text": text}])
        if number in (0, 3):
            command(folder / "length", single, "--output", tmp_path / "single.jsonl")
            value = lines_of(tmp_path / "single.jsonl")[0]["value"]
            assert together[number]["value"] == pytest.approx(value, abs=1e-5)


def test_plain_text_is_a_text_a_line(
    finetuned: FinetuneConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    texts = ["the cat sat", "", "the dog\u2028ate"]
    plain, lines = tmp_path / "new.txt", tmp_path / "new.jsonl"
    plain.write_text("\r\n".join(texts))
    write_lines(lines, [{"text": text} for text in texts])
    folder = finetuned.output / "hf" / "animal"
    monkeypatch.chdir(tmp_path)
    command(folder, plain)
    default = tmp_path / "predictions" / "new.txt.animal.jsonl"
    printed = capfd.readouterr().out
    assert f"animal predicted for 3 lines, in {default}" in printed
    assert "1 empty texts" in printed
    assert "new.txt: plain text: a line is text, without second_text" in printed
    command(folder, lines, "--output", "found.jsonl")
    assert default.read_text() == (tmp_path / "found.jsonl").read_text()
    assert f"in {tmp_path}/found.jsonl" in capfd.readouterr().out
    # A format of training that is not that of the file.
    table = "format={type: tsv, header: false}", "fields={text: 2}"
    with pytest.raises(RankError, match=r"read as tsv, as in .* add format='\{type: lines"):
        command(folder, plain, *table)
    command(folder, plain, *table[1:], "format={type: lines}", "--output", "found.jsonl")
    assert default.read_text() == (tmp_path / "found.jsonl").read_text()


def test_plain_text_is_refused_where_a_record_is_more_than_a_text(
    finetuned: FinetuneConfig, tmp_path: Path
) -> None:
    path = tmp_path / "new.txt"
    path.write_text("the cat sat\n")
    for name, words, message in (
        ("next", (), "a record of this task has text and choices: give JSON lines"),
        ("where", (), "a record of this task has question and context: give JSON lines"),
        ("animal", ("fields={second_text: b}",), "has text and second_text: give JSON lines"),
        ("tags", (), r"\{type: conll\} for a word a line, or \{type: lines\} for a text a line"),
    ):
        with pytest.raises(RankError, match=message):
            command(finetuned.output / "hf" / name, path, *words)
    output = tmp_path / "found.jsonl"
    command(finetuned.output / "hf" / "tags", path, "format={type: lines}", "--output", output)
    assert lines_of(output)[0]["words"] == ["the", "cat", "sat"]


def test_a_table_has_a_column_for_each_label(finetuned: FinetuneConfig, tmp_path: Path) -> None:
    folder = finetuned.output / "hf" / "animal"
    command(folder, file_of(finetuned, "animal"), "--output", tmp_path / "found.csv")
    with (tmp_path / "found.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("line", "label"),
        *(f"scores.{label}" for label in ("cat", "dog", "hat", "rat")),
    ]
    assert sum(float(rows[0][f"scores.{label}"]) for label in ("cat", "dog", "hat", "rat")) == (
        pytest.approx(1)
    )


def test_an_interrupted_prediction_goes_on(
    finetuned: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "LINES_PER_PART", 7)
    arguments = (finetuned.output / "hf" / "tags", file_of(finetuned, "tags"), "--output")
    command(*arguments, tmp_path / "whole.jsonl")
    assert not (tmp_path / f"whole.jsonl{FOLDER_SUFFIX}").exists()
    real = predicting.scores_of

    def killed(model: TaskModel, examples: Any, batch_tokens: int) -> Any:
        if examples[0].line > 14:
            raise RuntimeError("killed")
        return real(model, examples, batch_tokens)

    def only_the_rest(model: TaskModel, examples: Any, batch_tokens: int) -> Any:
        assert examples[0].line > 14
        return real(model, examples, batch_tokens)

    monkeypatch.setattr(predicting, "scores_of", killed)
    with pytest.raises(RankError, match="killed"):
        command(*arguments, tmp_path / "parts.jsonl")
    assert not (tmp_path / "parts.jsonl").exists()
    monkeypatch.setattr(predicting, "scores_of", only_the_rest)
    command(*arguments, tmp_path / "parts.jsonl")
    assert (tmp_path / "parts.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_parts_of_another_text_are_not_taken(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    Parts(output, {"file": "a"}).write(0, Part([{"label": "x"}], []))
    assert Parts(output, {"file": "a"}).read(0) == Part([{"label": "x"}], [])
    assert Parts(output, {"file": "b"}).read(0) is None
    assert Parts(output, {"file": "a"}).read(0) is None
    Parts(output, {"file": "a"}).remove()
    (tmp_path / "out.jsonl.parts").mkdir()
    with pytest.raises(UserError, match="is in the way"):
        Parts(output, {"file": "a"})


def test_parts_hold_whole_lines() -> None:
    assert parts_of_lines([1, 1, 1, 2, 3, 3], 2) == [slice(0, 4), slice(4, 6)]
    assert parts_of_lines([4], 2) == [slice(0, 1)]


def test_a_folder_of_another_program_says_its_task_by_its_class(
    finetuned: FinetuneConfig, tmp_path: Path
) -> None:
    for name in ("animal", "length", "tags"):
        folder = shutil.copytree(finetuned.output / "hf" / name, tmp_path / name)
        (folder / TASK_NAME).unlink()
        for where in (folder, finetuned.output / "hf" / name):
            command(
                where, file_of(finetuned, name), "--output", tmp_path / f"{where.parent.name}.jsonl"
            )
        assert lines_of(tmp_path / f"{tmp_path.name}.jsonl") == lines_of(tmp_path / "hf.jsonl")
    folder = shutil.copytree(finetuned.output / "hf" / "next", tmp_path / "next")
    (folder / TASK_NAME).unlink()
    with pytest.raises(ConfigError, match="num_choices"), open_exported(folder, "none", {}, "fp32"):
        pass
    changes = {"num_choices": 2}
    with open_exported(folder, "none", changes, "fp32") as model:
        assert model.task.rows_per_example == 2


def test_scores_in_bf16_are_near(finetuned: FinetuneConfig) -> None:
    def scores(precision: Any) -> Tensor:
        with open_exported(folder, "none", {}, precision) as model:
            return model.scores(torch.tensor([[0, 5, 6, 2]]), None)

    folder = finetuned.output / "hf" / "animal"
    exact, rounded = scores("fp32"), scores("bf16")
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, atol=0.02, rtol=0.02)


Words = Callable[[FinetuneConfig], list[str]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (lambda c: [f"{c.output}/hf"], "holds several exports; give one of .*hf/animal"),
        (lambda c: [f"{c.output.parent}/tasks"], "neither an exported task .* nor a run"),
        (lambda c: ["nowhere"], "nowhere: no such folder"),
        (lambda c: [str(c.output)], "several tasks: give --task with one of animal, length"),
        (lambda c: [str(c.output), "--task", "cat"], "no task 'cat': give --task with one of"),
        (lambda c: [str(c.start.path)], "a pretraining run, which has no task"),
        (lambda c: [f"{c.output}/hf/animal", "--best"], "are for the folder of a run"),
        (lambda c: [f"{c.output}/hf/animal", "--output", "a.xml"], "--output a.xml: the end"),
        (lambda c: [f"{c.output}/hf/animal", "--batch-tokens", "0"], "--batch-tokens 0: must be"),
        (lambda c: [f"{c.output}/hf/animal", "labells=[a]"], "labells: unknown key"),
        (lambda c: [f"{c.output}/hf/animal", "max_row_tokens=2"], "max_row_tokens is 2: give"),
        (lambda c: [f"{c.output}/hf/animal", "--output", "/proc/self/stat/a.csv"], "is no folder"),
    ],
)
def test_wrong_commands_are_refused(finetuned: FinetuneConfig, words: Words, message: str) -> None:
    with pytest.raises(RankError, match=message):
        command(*words(finetuned), file_of(finetuned, "animal"))
