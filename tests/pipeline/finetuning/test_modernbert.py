"""Fine-tuning a network of ModernBERT's kind: its heads, where they start, and their export."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from model.hugging_face.family import auto_class
from pipeline.checkpoint.manifest import find_checkpoint
from pipeline.checkpoint.reader import TensorReader
from pipeline.finetuning.export import export_tasks
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import checkpoints_folder
from tests.gloo import run_ranks
from tests.pipeline.finetuning.finetune_run import (
    TASKS,
    make_finetune_config,
    make_pretrained,
    run_finetuning,
)

MODERN: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "max_row_tokens": 32,
    "norm_placement": {"type": "pre"},
    "first_norm": False,
    "bias": {"attention": False, "mlp": False, "norm": False, "head": False},
    "activation": {"type": "geglu"},
    "positions": {"type": "rotary"},
    "type_vocab_size": 0,
}


@pytest.fixture(scope="module")
def modern(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return make_pretrained(tmp_path_factory.mktemp("modern"), model=MODERN, export="hugging_face")


@pytest.mark.parametrize("pooler", ["first", "mean"])
def test_all_tasks_are_exported_with_the_layers_of_its_classes(
    modern: TrainConfig, tmp_path: Path, pooler: str
) -> None:
    config = make_finetune_config(
        modern,
        tmp_path / "run",
        parallel={"tensor": 2},
        model={"pooler": {"type": pooler}},
        mlm=None,
    )
    run_ranks(run_finetuning, 2, config)
    checkpoint, _ = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None
    assert not any(name.startswith("pooler.") for name in checkpoint.manifest.parameters)
    (differences,) = run_ranks(export_tasks, 1, config, checkpoint, tmp_path / "hf")
    assert set(differences) == set(TASKS)
    assert max(differences.values()) < 1e-5
    for name in TASKS:
        auto = getattr(transformers, auto_class(config.tasks[name].head().type))
        model, loading = auto.from_pretrained(tmp_path / "hf" / name, output_loading_info=True)
        assert type(model).__name__.startswith("ModernBertFor"), name
        assert not loading["missing_keys"], name
        assert not loading["unexpected_keys"], name


def test_the_layers_start_from_the_pretrained_head(modern: TrainConfig, tmp_path: Path) -> None:
    config = make_finetune_config(modern, tmp_path / "run", steps=1, optimizer={"lr": 1e-12})
    run_ranks(run_finetuning, 1, config)
    trained, _ = find_checkpoint(checkpoints_folder(config))
    base, _ = find_checkpoint(checkpoints_folder(modern))
    assert trained is not None
    assert base is not None
    expected = TensorReader(base).full("weight", "head.dense.weight")
    for name in TASKS:
        found = TensorReader(trained).full("weight", f"transforms.{name}.dense.weight")
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
