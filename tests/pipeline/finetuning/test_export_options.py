"""Any checkpoint of a fine-tuned run is exported, with model cards, sentence vectors and ONNX."""

import json
import shutil
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
import yaml
from huggingface_hub import ModelCard

from configs import folder_lock
from configs.load import UserError
from pipeline import export
from pipeline.checkpoint.manifest import read_manifest
from pipeline.finetuning.config import FinetuneConfig
from pipeline.hugging_face.sentence_encoder import written_embeddings
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import DONE_NAME, checkpoints_folder, is_done
from tests.gloo import RankError, run_ranks
from tests.pipeline.finetuning.finetune_run import (
    make_finetune_config,
    make_tasks,
    run_finetuning,
)


@pytest.fixture(scope="module")
def finetuned(pretrained: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    """A finished run of three tasks with the checkpoints of steps 3 and 6; its files are gone."""
    folder = tmp_path_factory.mktemp("finetuned")
    tasks = make_tasks(folder / "tasks")
    config = make_finetune_config(
        pretrained,
        folder / "run",
        tasks={name: tasks[name] for name in ("animal", "where", "next")},
        mlm=None,
        checkpoint={"every_steps": 3},
    )
    run_ranks(run_finetuning, 1, config)
    (folder / "run.yaml").write_text(
        yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    )
    shutil.rmtree(folder / "tasks")
    return config


def command(config: FinetuneConfig, *words: str) -> None:
    """The command line, in a process of its own."""
    argv = ["export", str(config.output.parent / "run.yaml"), *words]
    with mock.patch.object(sys, "argv", argv):
        run_ranks(export.main, 1)


def test_tasks_of_a_step_with_all_files(finetuned: FinetuneConfig, tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    command(
        *(finetuned, "--step", "3", "--output", str(folder)),
        *("--onnx", "--sentence-transformers", "first"),
    )
    assert {path.name for path in folder.iterdir()} == {*finetuned.tasks, "sentence-encoder"}
    for path in folder.iterdir():
        parity = json.loads((path / "parity.json").read_text())
        assert parity["step"] == 3
        assert max(parity["other_differences"].values()) < 1e-5
        assert ("model.onnx" in parity["files"]) == (path.name != "sentence-encoder")
    check_cards(folder, finetuned)
    check_vector(folder / "sentence-encoder", finetuned)
    check_onnx(folder)


def check_cards(folder: Path, config: FinetuneConfig) -> None:
    tags = {
        "animal": "text-classification",
        "where": "question-answering",
        "next": "multiple-choice",
        "sentence-encoder": "sentence-similarity",
    }
    for name, tag in tags.items():
        text = (folder / name / "README.md").read_text()
        assert ModelCard(text).data.get("pipeline_tag") == tag
        assert str(config.output.parent) not in text
        assert "| step | 3 |" in text
        assert "| weights before training | run " in text
    animal = (folder / "animal" / "README.md").read_text()
    assert "RobertaForSequenceClassification" in animal
    assert "| step | dev accuracy |" in animal
    assert "| labels | cat, dog, hat, rat |" in animal
    assert "(train)" in animal
    assert ModelCard((folder / "sentence-encoder" / "README.md").read_text()).data.get(
        "library_name"
    ) == ("sentence-transformers")


def check_vector(folder: Path, config: FinetuneConfig) -> None:
    """The vector is that of the trained pooler, which is in the checkpoint."""
    modules = json.loads((folder / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Dense"]
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval().base_model
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder.parent / "animal"
    ).eval()
    tokens = torch.tensor([[0, 5, 9, 2]])
    with torch.no_grad():
        hidden = model(tokens).last_hidden_state
        vector = written_embeddings(folder, hidden, torch.ones_like(tokens))
        scores = classifier.classifier.out_proj(vector)
        torch.testing.assert_close(scores, classifier(tokens).logits)
    manifest = read_manifest(checkpoints_folder(config) / "step-00000003")
    assert "pooler.dense.weight" in manifest.parameters


def check_onnx(folder: Path) -> None:
    where = onnxruntime.InferenceSession(str(folder / "where" / "model.onnx"))
    assert [value.name for value in where.get_outputs()] == ["start_logits", "end_logits"]
    choices = onnxruntime.InferenceSession(str(folder / "next" / "model.onnx"))
    assert choices.get_inputs()[0].shape == ["batch", 2, "sequence"]
    tokens = np.full((3, 2, 5), 7)
    found = choices.run(None, {"input_ids": tokens, "attention_mask": np.ones_like(tokens)})[0]
    assert found.shape == (3, 2)


def test_the_best_step_and_those_that_are_gone(
    finetuned: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = {
        step: read_manifest(checkpoints_folder(finetuned) / f"step-{step:08d}").dev_error
        for step in (3, 6)
    }
    best = min(errors, key=lambda step: (errors[step] or 0.0, step))
    command(finetuned, "--best", "--output", str(tmp_path / "hf"))
    assert json.loads((tmp_path / "hf/animal/parity.json").read_text())["step"] == best
    with pytest.raises(RankError, match="no checkpoint of step 4; there are those of steps"):
        command(finetuned, "--step", "4")
    (tmp_path / "other" / "animal").mkdir(parents=True)
    (tmp_path / "other" / "animal" / "mine.txt").touch()
    words = ["export", f"{finetuned.output.parent}/run.yaml", "--output", str(tmp_path / "other")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(UserError, match=r"animal: holds files that are not an export"):
        export.main()


def test_of_two_exports_to_one_folder_the_second_is_refused(
    finetuned: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = folder_lock.hold(tmp_path / ".hf-lock")
    words = ["export", f"{finetuned.output.parent}/run.yaml", "--output", str(tmp_path / "hf")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(UserError, match="is in use by"):
        export.main()
    lock.release()
    assert not (tmp_path / "hf").exists()


def test_an_export_of_an_unfinished_run_says_so(
    finetuned: FinetuneConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = finetuned.output / DONE_NAME
    assert is_done(finetuned)
    content = done.read_bytes()
    done.unlink()
    words = ["export", f"{finetuned.output.parent}/run.yaml", "--output", str(tmp_path / "hf")]
    written = mock.patch.object(export, "export_run", return_value={})
    with mock.patch.object(sys, "argv", words), written:
        export.main()
    done.write_bytes(content)
    assert "the run is not finished" in caplog.text
