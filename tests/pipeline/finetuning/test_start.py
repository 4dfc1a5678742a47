"""What a fine-tuning run starts from, and what its checkpoints say about it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.load import UserError
from model.config import ModelConfig
from pipeline.checkpoint.manifest import (
    CheckpointManifest,
    find_checkpoint,
    manifest_json,
    read_manifest,
)
from pipeline.checkpoint.reader import TensorReader
from pipeline.finetuning.config import FinetuneConfig
from pipeline.run.config import RunConfig, TrainConfig
from pipeline.run.run_folder import checkpoints_folder
from pipeline.start.config import FromHuggingFace, FromRun
from pipeline.start.start import read_start
from tests.gloo import run_ranks
from tests.pipeline.checkpoint.saving import drop_tokenizer
from tests.pipeline.finetuning.finetune_run import (
    make_finetune_config,
    make_tasks,
    run_finetuning,
)
from tests.pipeline.hugging_face.folders import change_config, tiny_folder, tiny_tokenizer


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


def test_a_checkpoint_brings_its_tokenizer(
    pretrained: TrainConfig, finetuned: FinetuneConfig
) -> None:
    rows = (pretrained.data.path / "tokenizer.json").read_bytes()
    for run in (pretrained, finetuned):
        start = read_start(FromRun(path=run.output))
        assert start.tokenizer.parent.parent == checkpoints_folder(run)
        assert start.tokenizer.read_bytes() == rows
        assert newest(run).tokenizer is not None


def test_checkpoints_without_a_tokenizer_are_read(
    pretrained: TrainConfig, finetuned: FinetuneConfig, tmp_path: Path
) -> None:
    for name, run in (("first", pretrained), ("second", finetuned)):
        shutil.copytree(run.output, tmp_path / name)
        (step,) = (tmp_path / name / "checkpoints").iterdir()
        drop_tokenizer(step)
    start = read_start(FromRun(path=tmp_path / "first"))
    assert start.tokenizer == pretrained.data.path / "tokenizer.json"
    with pytest.raises(UserError, match=r"carries no tokenizer: set start\.tokenizer"):
        read_start(FromRun(path=tmp_path / "second"))


def test_a_damaged_tokenizer_is_a_damaged_checkpoint(
    pretrained: TrainConfig, tmp_path: Path
) -> None:
    shutil.copytree(pretrained.output, tmp_path / "run")
    (step,) = (tmp_path / "run" / "checkpoints").iterdir()
    tokenizer = step / "tokenizer.json"
    tokenizer.write_bytes(tokenizer.read_bytes().replace(b"cat", b"car"))
    with pytest.raises(UserError, match=r"tokenizer\.json: .*sha256"):
        read_start(FromRun(path=tmp_path / "run"))


def test_the_tokenizer_of_an_older_run_comes_from_its_url(
    pretrained: TrainConfig, tmp_path: Path
) -> None:
    shutil.copytree(pretrained.output, tmp_path / "run")
    (step,) = (tmp_path / "run" / "checkpoints").iterdir()
    drop_tokenizer(step)
    manifest = read_manifest(step)
    data = {
        "path": str(tmp_path / "cache"),
        "url": f"file://{pretrained.data.path}",
        "shuffle_unit": "shard",
    }
    changed = manifest.model_copy(update={"config": {**manifest.config, "data": data}})
    (step / "manifest.json").write_text(manifest_json(changed))
    start = read_start(FromRun(path=tmp_path / "run"))
    assert start.tokenizer == tmp_path / "cache" / "tokenizer.json"


def test_a_tokenizer_that_is_not_the_folders_is_refused(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "hf", tiny_tokenizer(99))
    tiny_tokenizer(99, a7=9, a9=7).save(str(tmp_path / "permuted.json"))
    start = FromHuggingFace(path=folder, tokenizer=tmp_path / "permuted.json")
    with pytest.raises(UserError, match="'a7' is 9 for the rows, 7 in the folder"):
        read_start(start)
    (folder / "tokenizer.json").unlink()
    assert read_start(start).vocab_size == 99
    change_config(folder, eos_token_id=3)
    with pytest.raises(UserError, match=r"eos_token_id of the folder's config\.json is 3"):
        read_start(start)


def test_a_folder_without_checkpoints_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint: train first"):
        read_start(FromRun(path=tmp_path))
