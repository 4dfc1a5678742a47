"""Every task's folder computes what was trained, or is never published."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from configs.load import UserError, validate
from model.hugging_face.bert_style import BertStyle
from model.hugging_face.family import auto_class
from pipeline.checkpoint.manifest import (
    MANIFEST_NAME,
    find_checkpoint,
    manifest_json,
    read_manifest,
)
from pipeline.export import export_run
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.export import export_tasks
from pipeline.hugging_face.folder import load_exported
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import checkpoints_folder
from tests.gloo import RankError, run_ranks
from tests.pipeline.finetuning.finetune_run import (
    ANIMALS,
    TASKS,
    make_finetune_config,
    make_tasks,
    run_finetuning,
)


@pytest.fixture(scope="module")
def finetuned(pretrained: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    """A finished run of all six tasks at tensor parallel 2."""
    config = make_finetune_config(
        pretrained, tmp_path_factory.mktemp("run") / "run", parallel={"tensor": 2}, mlm=None
    )
    run_ranks(run_finetuning, 2, config)
    return config


def exported(config: FinetuneConfig, folder: Path) -> dict[str, float]:
    checkpoint, problems = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None, problems
    differences: dict[str, float]
    (differences,) = run_ranks(export_tasks, 1, config, checkpoint, folder)
    return differences


def test_every_task_is_loaded_by_its_auto_class(finetuned: FinetuneConfig, tmp_path: Path) -> None:
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
    mark = transformers.pipeline("text-classification", str(tmp_path / "hf" / "inside"))
    assert mark.model.config.problem_type == "multi_label_classification"
    probabilities = {one["label"]: one["score"] for one in mark("the cat and the dog", top_k=None)}
    assert set(probabilities) == set(ANIMALS)
    assert sum(probabilities.values()) != pytest.approx(1, abs=1e-3)  # each by itself
    tokens = torch.tensor([[0, 5, 2]])
    rating = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "hf" / "length"
    )
    assert rating(tokens).logits.shape == (1, 1)


def test_scores_that_differ_are_not_published(
    finetuned: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(finetuned, tmp_path / "hf")
    for name in TASKS:  # as if they were made from an older checkpoint
        path = tmp_path / "hf" / name / "parity.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "step": 5}))

    def doubled(*arguments: Any) -> dict[str, torch.Tensor]:
        return {name: 2 * tensor for name, tensor in real(*arguments).items()}

    real = BertStyle.task_to_hf
    monkeypatch.setattr(BertStyle, "task_to_hf", doubled)
    before = (tmp_path / "hf" / "animal" / "model.safetensors").read_bytes()
    with pytest.raises(RankError, match="not exported: its scores differ"):
        exported(finetuned, tmp_path / "hf")
    assert (tmp_path / "hf" / "animal" / "model.safetensors").read_bytes() == before


def test_only_tasks_that_are_not_exported_yet_are_exported(
    finetuned: FinetuneConfig, tmp_path: Path
) -> None:
    exported(finetuned, tmp_path / "hf")
    assert exported(finetuned, tmp_path / "hf") == {}
    (tmp_path / "hf" / "tags" / "parity.json").unlink()
    checkpoint, _ = find_checkpoint(checkpoints_folder(finetuned))
    (folders,) = run_ranks(export_run, 1, finetuned, checkpoint, tmp_path / "hf")
    assert list(folders) == [tmp_path / "hf" / "tags"]


def test_the_export_needs_neither_base_nor_data(finetuned: FinetuneConfig, tmp_path: Path) -> None:
    gone = str(tmp_path / "deleted")
    tree = finetuned.model_dump(mode="json")
    for task in tree["tasks"].values():
        task.update(train=gone, dev=gone)
    tree["start"]["path"] = gone
    tree["output"] = str(tmp_path / "run")
    shutil.copytree(finetuned.output, tmp_path / "run")
    (step,) = (tmp_path / "run" / "checkpoints").iterdir()
    manifest = read_manifest(step).model_copy(update={"config": tree})
    (step / MANIFEST_NAME).write_text(manifest_json(manifest))
    config = validate(tree, FinetuneConfig, origin="test")
    assert set(exported(config, tmp_path / "hf")) == set(TASKS)


def test_other_labels_than_the_checkpoints_are_refused(
    finetuned: FinetuneConfig, tmp_path: Path
) -> None:
    exported(finetuned, tmp_path / "hf")  # also where the export exists already
    checkpoint, _ = find_checkpoint(checkpoints_folder(finetuned))
    assert checkpoint is not None
    tree = finetuned.model_dump(mode="json")
    tree["tasks"]["animal"]["labels"].reverse()
    tree["tasks"]["tags"] = tree["tasks"]["length"]
    wrong = validate(tree, FinetuneConfig, origin="test")
    with pytest.raises(UserError) as error:
        export_run(wrong, checkpoint, tmp_path / "hf")
    message = str(error.value)
    assert "tasks.animal.labels.0: 'cat' in the checkpoint, 'rat' in the config" in message
    assert "tasks.tags.type" in message
    labels = json.loads((tmp_path / "hf" / "animal" / "config.json").read_text())["id2label"]
    assert list(labels.values()) == list(ANIMALS)


def test_masks_are_filled_only_by_a_masked_lm_head(
    finetuned: FinetuneConfig, tmp_path: Path
) -> None:
    exported(finetuned, tmp_path / "hf")
    with pytest.raises(UserError, match=r"RobertaForSequenceClassification without .* lm_head"):
        load_exported(tmp_path / "hf" / "animal")
    with pytest.raises(UserError, match="it holds the exported tasks animal, inside, length"):
        load_exported(tmp_path / "hf")


def test_a_pooler_that_hugging_face_lacks_is_refused(
    pretrained: TrainConfig, tmp_path: Path
) -> None:
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


def test_a_hugging_face_folder_is_fine_tuned_and_exported_again(
    pretrained: TrainConfig, finetuned: FinetuneConfig, tmp_path: Path
) -> None:
    exported(finetuned, tmp_path / "hf")
    folder = tmp_path / "hf" / "animal"
    start = {"type": "hugging_face", "path": str(folder)}
    tasks = {"tags": make_tasks(tmp_path / "tasks")["tags"]}
    config = make_finetune_config(
        pretrained, tmp_path / "run", start=start, tasks=tasks, mlm=None, steps=2
    )
    run_ranks(run_finetuning, 1, config)
    assert set(exported(config, tmp_path / "hf2")) == {"tags"}
