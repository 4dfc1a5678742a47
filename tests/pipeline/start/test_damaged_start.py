"""The files of a checkpoint that a run starts from are hashed by all ranks together, once."""

import hashlib
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch.distributed as dist

from configs.load import UserError
from pipeline.run.config import TrainConfig
from tests.gloo import RankError, run_ranks
from tests.pipeline.finetuning.finetune_run import make_finetune_config, run_finetuning
from tests.pipeline.start.continuing import child_tree, make_data, parent_config, run_tree
from tests.pipeline.training_run import pretrain


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "rows")


@pytest.fixture(scope="module")
def parent(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run of two ranks, whose checkpoints have two tensor files each."""
    config = parent_config(rows, tmp_path_factory.mktemp("parent") / "run")
    run_ranks(pretrain, 2, config)
    return config


def copied(parent: TrainConfig, folder: Path) -> tuple[Path, Path]:
    """(a copy of the run's folder, the last tensor file of its step 20)."""
    shutil.copytree(parent.output, folder)
    step = folder / "checkpoints" / "step-00000020"
    return folder, sorted(step.glob("*.safetensors"))[-1]


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("step", [20, "best"])
def test_damage_ends_a_branch_before_its_first_step(
    rows: Path, parent: TrainConfig, tmp_path: Path, step: Any
) -> None:
    folder, file = copied(parent, tmp_path / "parent")
    damage(file)
    start = {"type": "run", "path": str(folder), "step": step}
    with pytest.raises(RankError, match=rf"{file.name}: damaged checkpoint: its sha256"):
        run_ranks(run_tree, 2, child_tree(rows, tmp_path / "run", start))
    assert not list((tmp_path / "run" / "checkpoints").glob("step-*"))


def test_damage_ends_fine_tuning_before_its_first_step(parent: TrainConfig, tmp_path: Path) -> None:
    folder, file = copied(parent, tmp_path / "parent")
    config = make_finetune_config(parent, tmp_path / "run")
    damage(file)
    start = config.start.model_copy(update={"path": folder})
    with pytest.raises((RankError, UserError), match=rf"{file.name}: damaged checkpoint: its sh"):
        run_ranks(run_finetuning, 2, config.model_copy(update={"start": start}))


def files_hashed(tree: dict[str, Any]) -> list[str]:
    """The tensor files of the start that this rank hashed."""
    real, found = hashlib.file_digest, []

    def noted(file: Any, digest: Any) -> Any:
        if "parent" in file.name and file.name.endswith(".safetensors"):
            found.append(Path(file.name).name)
        return real(file, digest)

    with mock.patch.object(hashlib, "file_digest", noted):
        run_tree(tree)
    dist.barrier()
    return found


@pytest.mark.parametrize("step", [20, "best"])
def test_each_file_is_hashed_by_one_rank(
    rows: Path, parent: TrainConfig, tmp_path: Path, step: Any
) -> None:
    start = {"type": "run", "path": str(parent.output), "step": step}
    hashed = run_ranks(files_hashed, 2, child_tree(rows, tmp_path / "run", start))
    assert [len(names) for names in hashed] == [1, 1]
    assert hashed[0] != hashed[1]
