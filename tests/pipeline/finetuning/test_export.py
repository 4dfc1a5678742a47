"""Every task's folder computes what was trained, or is never published."""

import json

import pytest
import torch
import transformers

from model.hugging_face.family import auto_class
from pipeline.checkpoint.manifest import find_checkpoint
from pipeline.finetuning import export as finetune_export
from pipeline.finetuning.export import export_tasks
from pipeline.run.run_folder import checkpoints_folder
from tests.gloo import RankError, run_ranks
from tests.pipeline.finetuning.finetune_run import (
    ANIMALS,
    TASKS,
    make_finetune_config,
    make_pretrained,
    make_tasks,
    run_finetuning,
)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return make_pretrained(tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(scope="module")
def finetuned(pretrained, tmp_path_factory):
    """A finished run of all five tasks at tensor parallel 2."""
    config = make_finetune_config(
        pretrained, tmp_path_factory.mktemp("run") / "run", parallel={"tensor": 2}, mlm=None
    )
    run_ranks(run_finetuning, 2, config)
    return config


def exported(config, folder) -> dict[str, float]:
    checkpoint, problems = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None, problems
    (differences,) = run_ranks(export_tasks, 1, config, checkpoint, folder)
    return differences


def test_every_task_is_loaded_by_its_auto_class(finetuned, tmp_path):
    differences = exported(finetuned, tmp_path / "hf")
    assert set(differences) == set(TASKS)
    assert max(differences.values()) < 1e-5
    for name in TASKS:
        folder = tmp_path / "hf" / name
        head = finetuned.tasks[name].head()
        auto = getattr(transformers, auto_class(head.type))
        model, loading = auto.from_pretrained(folder, output_loading_info=True)
        assert not loading["missing_keys"], name
        assert not loading["unexpected_keys"], name
        assert json.loads((folder / "parity.json").read_text())["step"] == 6
        assert type(model).__name__ == model.config.architectures[0]
    classify = transformers.pipeline("text-classification", str(tmp_path / "hf" / "animal"))
    assert classify("the cat and the cat")[0]["label"] in ANIMALS
    tokens = torch.tensor([[0, 5, 2]])
    rating = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "hf" / "length"
    )
    assert rating(tokens).logits.shape == (1, 1)


def test_scores_that_differ_are_not_published(finetuned, tmp_path, monkeypatch):
    exported(finetuned, tmp_path / "hf")

    def doubled(*arguments):
        return {name: 2 * tensor for name, tensor in real(*arguments).items()}

    real = finetune_export.task_tensors
    monkeypatch.setattr(finetune_export, "task_tensors", doubled)
    before = (tmp_path / "hf" / "animal" / "model.safetensors").read_bytes()
    with pytest.raises(RankError, match="not exported: its scores differ"):
        exported(finetuned, tmp_path / "hf")
    assert (tmp_path / "hf" / "animal" / "model.safetensors").read_bytes() == before


def test_a_pooler_that_hugging_face_lacks_is_refused(pretrained, tmp_path):
    tasks = {"animal": make_tasks(tmp_path / "tasks")["animal"]}
    config = make_finetune_config(
        pretrained,
        tmp_path / "run",
        tasks=tasks,
        mlm=None,
        steps=1,
        model={"pooler": {"type": "mean"}},
    )
    run_ranks(run_finetuning, 1, config)
    with pytest.raises(RankError, match=r"no head for whole rows with mean, only with a matrix"):
        exported(config, tmp_path / "hf")


def test_a_hugging_face_folder_is_fine_tuned_and_exported_again(pretrained, finetuned, tmp_path):
    exported(finetuned, tmp_path / "hf")
    folder = tmp_path / "hf" / "animal"
    start = {"type": "hugging_face", "path": str(folder)}
    tasks = {"tags": make_tasks(tmp_path / "tasks")["tags"]}
    config = make_finetune_config(
        pretrained, tmp_path / "run", start=start, tasks=tasks, mlm=None, steps=2
    )
    run_ranks(run_finetuning, 1, config)
    assert set(exported(config, tmp_path / "hf2")) == {"tags"}
