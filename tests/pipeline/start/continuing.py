"""A parent run and a Hugging Face folder on the same rows, and runs that continue them."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml

from configs import log
from pipeline.checkpoint.manifest import Checkpoint, checkpoint_folder, read_manifest
from pipeline.checkpoint.reader import TensorReader
from pipeline.launch.environment import Launch
from pipeline.pretraining.loop import train
from pipeline.run import run_folder
from pipeline.run.config import TrainConfig
from pipeline.run.plan import plan_run
from pipeline.run.train_config import complete_config
from tests.pipeline.hugging_face.folders import tiny_tokenizer
from tests.pipeline.training_run import VOCAB_SIZE, make_config, make_rows

TOKENIZER = tiny_tokenizer(VOCAB_SIZE)


def make_data(folder: Path, **changes: Any) -> Path:
    """Rows of `TOKENIZER`."""
    make_rows(folder, **{"tokenizer": TOKENIZER, **changes})
    return folder


def parent_config(rows: Path, output: Path, **changes: Any) -> TrainConfig:
    """Twenty steps with a checkpoint after ten."""
    checkpoint = {"every_steps": 10, "keep_last": 9}
    return make_config(rows, output, **{"checkpoint": checkpoint, **changes})


def child_tree(rows: Path, output: Path, start: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A config file of four steps that has a start, and no model section."""
    tree = make_config(rows, output).model_dump(mode="json", exclude_unset=True)
    del tree["model"]
    short = {"total_rows": 64, "schedule": {"type": "constant"}}
    return {**tree, **short, "start": start, **changes}


def child_config(rows: Path, output: Path, start: dict[str, Any], **changes: Any) -> TrainConfig:
    return complete_config(child_tree(rows, output, start, **changes), "test")


def run_tree(tree: dict[str, Any]) -> None:
    """What a rank does from the content of a config file on."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    log.configure(rank)
    config = complete_config(tree, "test")
    plan = plan_run(config, world_size)
    dist.barrier()
    if rank == 0:
        run_folder.claim(config, plan.data_fingerprint)
    dist.barrier()
    train(plan, Launch(rank, rank, world_size, world_size))


def checkpoint_at(config: TrainConfig, step: int) -> Checkpoint:
    path = checkpoint_folder(run_folder.checkpoints_folder(config), step)
    return Checkpoint(path, read_manifest(path))


def state_at(config: TrainConfig, step: int, *keys: str) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, by "key/name"."""
    checkpoint = checkpoint_at(config, step)
    reader = TensorReader(checkpoint)
    return {
        f"{key}/{name}": reader.full(key, name)
        for key in keys or checkpoint.manifest.state_keys
        for name in checkpoint.manifest.parameters
        if reader.has(key, name)
    }


def write_yaml(path: Path, tree: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(tree))
    return path
