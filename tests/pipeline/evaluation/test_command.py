"""The whole command: runs, folders and checks in one table, as files and in MLflow."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import yaml

from configs.load import ConfigError, UserError
from pipeline import evaluate
from pipeline.checkpoint.choice import choose_checkpoint
from pipeline.evaluation.checks import (
    AS_TRAINED,
    EMBEDDINGS,
    FILL_MASK,
    HELDOUT,
    MINIMAL_PAIRS,
    SPEED,
)
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.finding import find_models
from pipeline.evaluation.results import Evaluation
from pipeline.evaluation.terminal import table
from pipeline.evaluation.written import check_folder
from pipeline.export import export_run
from pipeline.finetuning.config import FinetuneConfig
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import checkpoints_folder
from pipeline.tracking.event_log import LOG_NAME, read_events
from tests.configs.pages.test_pages import Nesting
from tests.gloo import run_ranks
from tests.pipeline.evaluation.tiny_models import SENTENCES, tokenizer_of
from tests.pipeline.training_run import ROW_TOKENS, make_config, pretrain
from tests.synthetic_rows import Rows, SyntheticSource, write_data_set

SPEED_OFF: dict[str, Any] = {"speed": {"row_tokens": [16], "batch_rows": 2, "repeats": 1}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run with checkpoints of steps 2 and 4, and its export."""
    folder = tmp_path_factory.mktemp("evaluated")
    make_text_rows(folder / "rows")
    config = make_config(
        folder / "rows",
        folder / "run",
        total_rows=4 * 16,
        evaluation={"every_steps": 2, "rows_per_source": 4},
        checkpoint={"every_steps": 2, "keep_last": 9},
        export="hugging_face",
    )
    run_ranks(pretrain, 1, config)
    checkpoint = choose_checkpoint(checkpoints_folder(config))
    run_ranks(export_run, 1, config, checkpoint, config.output / "hf")
    return config


def make_text_rows(folder: Path) -> None:
    """Rows of words in any order, in sentences."""
    tokenizer = tokenizer_of(304)
    generator = np.random.default_rng(0)
    words = " ".join(SENTENCES).replace(",", "").split()

    def blocks(count: int) -> Iterator[Rows]:
        rows = np.ones((count, ROW_TOKENS), dtype=np.uint16)
        for row in rows:
            text = " ".join(" ".join(generator.choice(words, 8)) + "." for _ in range(4))
            row[:] = [0, *tokenizer.encode(text).ids[: ROW_TOKENS - 2], 2]
        yield rows

    write_data_set(
        folder,
        [
            SyntheticSource("train", "a", blocks(80)),
            SyntheticSource("heldout", "a", blocks(9)),
            SyntheticSource("heldout", "b", blocks(5)),
        ],
        row_tokens=ROW_TOKENS,
        vocab_size=tokenizer.get_vocab_size(),
        block_rows=128,
        tokenizer=tokenizer.to_str(),
    )


@pytest.fixture
def checks(tmp_path: Path) -> Path:
    """A file of checks on small files of its own."""
    (tmp_path / "texts.txt").write_text("\n\n".join(f"{text}." for text in SENTENCES))
    lines = {
        "pairs": {"sentence_good": "the cat sat", "sentence_bad": "cat the sat"},
        "gaps": {"text": "the <mask> sat", "answers": ["cat", "rat"]},
        "paraphrases": {"text_a": "the cat sat", "text_b": "a cat sat", "label": 1},
    }
    for name, record in lines.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(record) + "\n")
    tree = {
        "results": str(tmp_path / "results"),
        "texts": {"type": "files", "files": str(tmp_path / "*.txt")},
        "minimal_pairs": {"files": str(tmp_path / "pairs.jsonl")},
        "fill_mask": {"files": str(tmp_path / "gaps.jsonl")},
        "embeddings": {"files": str(tmp_path / "paraphrases.jsonl"), "pooling": "mean"},
        **SPEED_OFF,
        "mlflow": {"enabled": False},
    }
    path = tmp_path / "checks.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def evaluated(words: list[str], overrides: tuple[str, ...] = ()) -> Evaluation:
    """What the command does with `words`, in a process of its own."""
    config, models = evaluate.read_config(words, overrides)
    (found,) = run_ranks(_evaluate, 1, config, models)
    assert isinstance(found, Evaluation)
    return found


def _evaluate(config: EvaluationConfig, words: list[str]) -> Evaluation:
    return evaluate.evaluate(config, find_models(words, config.models))


def values(evaluation: Evaluation, model: int, check: str) -> dict[tuple[str, str], float]:
    found = evaluation.models[model].checks[check]
    return {one.key: one.value for one in found.measures}


def test_a_run_and_its_export_are_equal_in_every_check(run: TrainConfig, checks: Path) -> None:
    words = [str(run.output), str(run.output / "hf"), f"{run.output}@2", str(checks)]
    found = evaluated(words)
    assert [model.name for model in found.models] == ["run@4", "run-hf", "run@2"]
    for check in (HELDOUT, MINIMAL_PAIRS, FILL_MASK, EMBEDDINGS):
        first, second, other = (values(found, number, check) for number in range(3))
        assert first == pytest.approx(second, rel=1e-4, nan_ok=True), check
        assert first.keys() == other.keys()
    assert values(found, 0, HELDOUT) != values(found, 2, HELDOUT)
    assert set(values(found, 0, SPEED)) >= {("tokens_per_s", "2 x 16")}
    events = [event for event, _ in read_events(run.output / LOG_NAME)]
    measured = [event["values"] for event in events if event["kind"] == "metrics"]
    recorded = [step["heldout_loss"] for step in measured if "heldout_loss" in step]
    for number, step in ((0, 1), (2, 0)):
        loss = values(found, number, AS_TRAINED)["heldout_loss", ""]
        assert loss == pytest.approx(recorded[step], rel=1e-5)
    assert AS_TRAINED not in found.models[1].checks

    folder = checks.parent / "results"
    tree = json.loads((folder / "evaluation.json").read_text())
    assert list(tree["models"]) == ["run@4", "run-hf", "run@2"]
    assert tree["models"]["run@4"]["origin"]["data_fingerprint"]
    shown, page = table(found), (folder / "report.html").read_text()
    for warning in (
        "minimal pairs: fewer than 30 pairs of pairs (1)",
        f"held-out rows of {run.data.path}: fewer than 30 documents",  # of both checkpoints
    ):
        assert shown.count(warning) == page.count(warning) == 1
    checker = Nesting()
    checker.feed(page)
    assert not checker.open
    assert all(address.startswith("#") for address in checker.addresses)
    items = (folder / "minimal_pairs-run@4.jsonl").read_text().splitlines()
    assert json.loads(items[0])["sentence_good"] == "the cat sat"

    # The same again is the same evaluation; another one does not replace it.
    assert evaluated(words).fingerprint == found.fingerprint
    with pytest.raises(Exception, match="holds an evaluation of other models"):
        evaluated(words[:1] + words[-1:])


def test_a_run_alone_is_evaluated_on_its_own_rows(run: TrainConfig, tmp_path: Path) -> None:
    overrides = (
        f"results={tmp_path / 'r'}",
        "mlflow.enabled=false",
        "speed.row_tokens=[16]",
        "speed.repeats=1",
    )
    found = evaluated([str(run.output)], overrides)
    assert {AS_TRAINED, HELDOUT, EMBEDDINGS} <= found.models[0].checks.keys()
    assert found.facts["texts"]["rows"] == str(run.data.path)
    assert set(found.facts["texts"]["sources"]) == {"a", "b"}
    for check in (AS_TRAINED, HELDOUT):
        # Of 9 and 5 rows, each a document, training evaluates 4.
        of = {one.key: one for one in found.models[0].checks[check].measures}
        loss = "heldout_loss" if check == AS_TRAINED else "bits_per_byte"
        documents = [of[loss, group].documents for group in ("", "a", "b")]
        assert documents == ([8, 4, 4] if check == AS_TRAINED else [14, 9, 5])
    shown = table(found)
    assert re.search(r"heldout loss: a +4 rows +~4 ", shown)
    assert re.search(r"bits per byte: b +\d+ words +~5 ", shown)
    assert "note: the texts: fewer than 30 documents of a (about 9), b (about 5)" in shown
    assert "a larger heldout_share in the config of data preparation gives more of a, b" in shown
    few = f"held-out rows of {run.data.path}: fewer than 30 documents of a (about 4), b (about 4)"
    assert few in shown
    page = (tmp_path / "r" / "report.html").read_text()
    assert "texts of about 9 documents" in page
    assert "fewer than 30 documents of a (about 9)" in page


def test_mlflow_has_one_run_linked_to_the_checkpoint(
    run: TrainConfig, checks: Path, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    from pipeline.tracking.mlflow_run import MlflowRun
    from pipeline.tracking.tracked_run import sqlite_uri

    uri = sqlite_uri(tmp_path / "mlflow.db")
    checkpoint = choose_checkpoint(checkpoints_folder(run), 4)
    tracked = MlflowRun(uri, "pretraining", "key", "trained")
    tracked.log_checkpoint({"step": 4, "path": str(checkpoint.path)})
    identity = json.loads((run.output / "folder.json").read_text())["id"]
    sent = {"version": 2, "folder": identity, "run_id": tracked.run_id}
    (run.output / "tracking.json").write_text(json.dumps(sent))
    overrides = (
        *("mlflow.enabled=true", f"mlflow.uri={uri}", "mlflow.experiment=pretraining"),
        *(
            "checks=[heldout, fill_mask, minimal_pairs, embeddings]",
            f"results={tmp_path / 'other'}",
        ),
    )
    words = [str(run.output), str(run.output / "hf"), str(checks)]
    for _ in range(2):  # the second time nothing is new
        found = evaluated(words, overrides)
    (run.output / "tracking.json").unlink()
    client = MlflowClient(tracking_uri=uri)
    (entry,) = client.search_logged_models([client.get_run(tracked.run_id).info.experiment_id])
    runs = client.search_runs([entry.experiment_id], "tags.kind = 'evaluation'")
    assert len(runs) == 1
    (logged,) = runs
    value = values(found, 0, HELDOUT)["bits_per_byte", ""]
    assert logged.data.metrics[f"run_4/{HELDOUT}/bits_per_byte"] == pytest.approx(value)
    assert f"run-hf/{FILL_MASK}/exact" in logged.data.metrics
    assert logged.data.tags["model.run_4.sha256"] == checkpoint.manifest.sha256
    assert logged.data.tags["model.run_4.entry"] == entry.model_id
    inputs = client.get_run(logged.info.run_id).inputs
    assert [one.model_id for one in inputs.model_inputs] == [entry.model_id]
    shown = {one.key: one.value for one in client.get_logged_model(entry.model_id).metrics}
    assert shown[f"{HELDOUT}/bits_per_byte"] == pytest.approx(value, rel=1e-4)
    assert {file.path for file in client.list_artifacts(logged.info.run_id, "evaluation")} >= {
        "evaluation/report.html"
    }


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with (
        mock.patch.object(os, "access", return_value=False),
        pytest.raises(UserError, match=f"^results .*/new: {tmp_path} cannot be written: check"),
    ):
        check_folder(tmp_path / "new", "fingerprint")


def test_no_key_belongs_to_a_run_and_an_evaluation() -> None:
    of_runs = TrainConfig.model_fields.keys() | FinetuneConfig.model_fields.keys()
    assert not evaluate.EVALUATION_KEYS & of_runs
    assert of_runs >= evaluate.RUN_KEYS


def test_wrong_words_are_refused_before_the_work(run: TrainConfig, tmp_path: Path) -> None:
    folder, hf = str(run.output), str(run.output / "hf")
    empty = tmp_path / "empty"
    empty.mkdir()
    for words, message in (
        (["nowhere"], "no such file or folder; give the folder or the config of a run"),
        ([str(empty)], "no model; give"),
        ([f"{folder}@3"], "no checkpoint of step 3; there are those of steps"),
        ([f"{folder}@last"], "after '@' stands a step or 'best'"),
        ([f"{hf}@2"], "a Hugging Face folder has no steps"),
    ):
        with pytest.raises(UserError, match=message):
            find_models(words, {})
    with pytest.raises(UserError, match=r"data\.path=x: neither a key of an evaluation nor"):
        find_models([folder], {}, ["data.path=x"])
    with pytest.raises(UserError, match="--step and --best choose a checkpoint of a run"):
        find_models([hf], {}, step=2)
    found = find_models([folder, folder, hf], {"own": f"{folder}@best"}, step=2)
    assert [model.name for model in found] == ["run@2", "run@2-2", "run-hf", "own"]
    assert found[3].checkpoint is not None

    checks = tmp_path / "checks.yaml"
    checks.write_text("speeed: {}\nheldout: {mask_rate: 2}\n")
    with pytest.raises(ConfigError, match=r"(?s)2 error\(s\).*mask_rate.*did you mean 'speed'"):
        evaluate.read_config([folder, str(checks)], [])
    checks.write_text("checks: speed\n")
    other = tmp_path / "other.yaml"
    other.write_text("{}")
    with pytest.raises(UserError, match="at most one file of checks"):
        evaluate.read_config([str(checks), str(other)], [])
    with pytest.raises(UserError, match="no model: give"):
        evaluate.read_config([str(checks)], [])
    for overrides, message in (
        (["checks=[]"], "checks"),
        (["checks=[loss]"], "checks"),
        (["checks=speed", "fill_mask.files=gaps.jsonl"], "checks does not name fill_mask"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate.read_config([folder], overrides)
