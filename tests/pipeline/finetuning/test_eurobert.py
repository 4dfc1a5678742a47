"""Fine-tuning a network of EuroBERT's kind, and exporting its heads to their classes."""

from pathlib import Path

import pytest
import transformers

from model.hugging_face.family import auto_class
from pipeline.checkpoint.manifest import find_checkpoint
from pipeline.finetuning.export import export_tasks
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import checkpoints_folder
from tests.gloo import run_ranks
from tests.pipeline.finetuning.finetune_run import (
    make_finetune_config,
    make_pretrained,
    make_tasks,
    run_finetuning,
)
from tests.pipeline.pretraining.test_eurobert_run import MODEL

TASKS = ("animal", "length", "tags")
"""Those that transformers has a class for."""


@pytest.fixture(scope="module")
def eurobert(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return make_pretrained(tmp_path_factory.mktemp("euro"), model=MODEL, export="hugging_face")


@pytest.mark.parametrize("pooler", ["first", "mean"])
def test_its_tasks_are_exported(eurobert: TrainConfig, tmp_path: Path, pooler: str) -> None:
    made = make_tasks(tmp_path / "tasks")
    config = make_finetune_config(
        eurobert,
        tmp_path / "run",
        tasks={name: made[name] for name in TASKS},
        parallel={"tensor": 2},
        model={"pooler": {"type": pooler}},
        steps=3,
        mlm=None,
    )
    run_ranks(run_finetuning, 2, config)
    checkpoint, _ = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None
    layers = {name for name in checkpoint.manifest.parameters if name.startswith("transforms.")}
    assert layers == {
        f"transforms.{task}.dense.{kind}"
        for task in ("animal", "length")
        for kind in ("weight", "bias")
    }
    assert not any(name.startswith("pooler.") for name in checkpoint.manifest.parameters)
    (differences,) = run_ranks(export_tasks, 1, config, checkpoint, tmp_path / "hf")
    assert set(differences) == set(TASKS)
    assert max(differences.values()) < 1e-5
    for name in TASKS:
        auto = getattr(transformers, auto_class(config.tasks[name].head().type))
        model, loading = auto.from_pretrained(tmp_path / "hf" / name, output_loading_info=True)
        assert type(model).__name__.startswith("EuroBertFor"), name
        assert not loading["missing_keys"], name
        assert not loading["unexpected_keys"], name
