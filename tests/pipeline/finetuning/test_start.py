"""What a fine-tuning run starts from, and what its checkpoints say about it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from configs.load import UserError
from model.config import ModelConfig
from pipeline.checkpoint.manifest import CheckpointManifest, find_checkpoint
from pipeline.checkpoint.reader import TensorReader
from pipeline.finetuning.config import FinetuneConfig, FromRun
from pipeline.finetuning.start import read_start
from pipeline.run.config import RunConfig, TrainConfig
from pipeline.run.run_folder import checkpoints_folder
from tests.gloo import run_ranks
from tests.pipeline.finetuning.finetune_run import (
    make_finetune_config,
    make_pretrained,
    make_tasks,
    run_finetuning,
)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return make_pretrained(tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(scope="module")
def finetuned(pretrained: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    """A finished run of one task with a pooler of its own."""
    folder = tmp_path_factory.mktemp("finetuned")
    config = make_finetune_config(
        pretrained, folder / "run", tasks=one_task(folder, "animal"), mlm=None
    )
    run_ranks(run_finetuning, 1, config)
    return config


def one_task(folder: Path, name: str) -> dict[str, Any]:
    return {name: make_tasks(folder / "tasks")[name]}


def newest(config: RunConfig) -> CheckpointManifest:
    checkpoint, problems = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None, problems
    return checkpoint.manifest


def test_a_checkpoint_names_what_it_holds(finetuned: FinetuneConfig) -> None:
    manifest = newest(finetuned)
    assert manifest.heldout_loss is None
    assert manifest.dev_error is not None
    assert 0 <= manifest.dev_error <= 1
    assert manifest.network is not None
    assert "network" not in manifest.config
    network = ModelConfig.model_validate(manifest.network)
    assert network.hidden_size == 32
    assert manifest.parameters["pooler.dense.weight"].shape == (32, 32)


def test_a_fine_tuned_encoder_is_fine_tuned_on_a_second_task(
    pretrained: TrainConfig, finetuned: FinetuneConfig, tmp_path: Path
) -> None:
    tokenizer = pretrained.data.path / "tokenizer.json"
    start = {"type": "run", "path": str(finetuned.output), "tokenizer": str(tokenizer)}
    config = make_finetune_config(
        pretrained,
        tmp_path / "run",
        tasks=one_task(tmp_path, "length"),
        mlm=None,
        start=start,
        steps=1,
        optimizer={"lr": 1e-30},
    )
    run_ranks(run_finetuning, 1, config)
    first, _ = find_checkpoint(checkpoints_folder(finetuned))
    second, _ = find_checkpoint(checkpoints_folder(config))
    assert first is not None
    assert second is not None
    before, after = TensorReader(first), TensorReader(second)
    names = [name for name in second.manifest.parameters if name.startswith("encoder.")]
    for name in names:
        assert torch.equal(before.full("weight", name), after.full("weight", name)), name
    assert len(names) > 10


def test_a_fine_tuned_start_needs_a_tokenizer(finetuned: FinetuneConfig) -> None:
    with pytest.raises(UserError, match=r"no tokenizer of its own: set start\.tokenizer"):
        read_start(FromRun(path=finetuned.output), check_hashes=True)


def test_a_folder_without_checkpoints_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint: train first"):
        read_start(FromRun(path=tmp_path), check_hashes=True)
