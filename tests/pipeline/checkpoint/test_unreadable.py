"""A file of a checkpoint that cannot be read now: no damage, so no older checkpoint is taken."""

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch.distributed as dist

from model.parallel.grid import make_grid
from pipeline.checkpoint.best import find_best
from pipeline.checkpoint.choice import choose_checkpoint
from pipeline.checkpoint.config import CheckpointConfig
from pipeline.checkpoint.manifest import MANIFEST_NAME, find_checkpoint
from pipeline.checkpoint.newest import newest_checkpoint
from pipeline.checkpoint.reader import TensorReader
from pipeline.checkpoint.writer import superfluous
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import checkpoints_folder
from tests.gloo import RankError, run_ranks
from tests.pipeline.checkpoint.saving import save
from tests.pipeline.training_run import make_config, make_rows, pretrain

ERRORS = [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES, errno.EMFILE, errno.ENOMEM]


def failing_open(name: str, code: int) -> Any:
    """Opening files whose path holds `name` fails, as of a file server that does not answer."""
    real = os.open

    def open_or_fail(path: Any, *arguments: Any, **named: Any) -> int:
        if name in str(path):
            raise OSError(code, os.strerror(code), str(path))
        return real(path, *arguments, **named)

    return mock.patch.object(os, "open", open_or_fail)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Steps 2 and 3, of which step 3 is the newest and the best."""
    save(tmp_path, [2, 3], tp_size=1)
    return tmp_path


@pytest.mark.parametrize("code", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("name", [MANIFEST_NAME, ".safetensors"])
@pytest.mark.parametrize("choose", [find_checkpoint, choose_checkpoint, find_best])
def test_it_is_an_error_with_the_name_of_the_file(
    folder: Path, choose: Callable[[Path], Any], name: str, code: int
) -> None:
    path = f"step-00000003/{name}" if name == MANIFEST_NAME else name
    with failing_open(path, code), pytest.raises(OSError, match=os.strerror(code)) as caught:
        choose(folder)
    assert caught.value.errno == code
    assert "step-00000003" in str(caught.value.filename)


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENOTDIR, errno.ELOOP])
def test_a_missing_file_is_damage(folder: Path, code: int) -> None:
    with failing_open("step-00000003/state", code):
        found, problems = find_checkpoint(folder)
    assert found is not None
    assert found.manifest.step == 2
    assert len(problems) == 1
    assert "damaged checkpoint: " in problems[0]


def test_an_error_while_reading_has_the_name_too(folder: Path) -> None:
    failure = OSError(errno.EIO, "Input/output error")
    reading = mock.patch.object(hashlib, "file_digest", side_effect=failure)
    with reading, pytest.raises(OSError, match=r"Input/output error.*step-00000003"):
        find_checkpoint(folder)


def newest_where_a_rank_cannot_read(folder: Path, rank: int, name: str) -> str:
    grid = make_grid(1)
    with failing_open(name if dist.get_rank() == rank else "no such name", errno.EIO):
        found = newest_checkpoint(folder, grid)
    return "" if found is None else found.path.name


@pytest.mark.parametrize(("rank", "name"), [(0, MANIFEST_NAME), (0, "state-"), (1, "state-")])
def test_no_rank_takes_an_older_one(tmp_path: Path, rank: int, name: str) -> None:
    save(tmp_path, [1, 2], tp_size=1, dp_size=2)
    path = f"step-00000002/{name}"
    assert run_ranks(newest_where_a_rank_cannot_read, 2, tmp_path, 2, path) == ["step-00000002"] * 2
    with pytest.raises(RankError, match="Input/output error"):
        run_ranks(newest_where_a_rank_cannot_read, 2, tmp_path, rank, path)


def resumed_without(config: TrainConfig, step: str) -> int:
    """The step of the newest checkpoint after a launch that cannot read the files of `step`."""
    with failing_open(step, errno.EIO):
        pretrain(config)
    found, _ = find_checkpoint(checkpoints_folder(config))
    assert found is not None
    return found.manifest.step


def test_an_older_one_that_cannot_be_read_stops_no_run(tmp_path: Path) -> None:
    make_rows(tmp_path / "rows")

    def config(num_steps: int) -> TrainConfig:
        return make_config(
            *(tmp_path / "rows", tmp_path / "run"),
            total_rows=num_steps * 16,
            schedule={"type": "constant"},
            checkpoint={"every_steps": 2, "keep_last": 9},
        )

    run_ranks(pretrain, 1, config(4))
    assert run_ranks(resumed_without, 1, config(6), "step-00000002/") == [6]
    with pytest.raises(RankError, match="Input/output error"):
        run_ranks(resumed_without, 1, config(8), "step-00000006/")


def test_opening_for_tensors_and_tables_fails_likewise(tmp_path: Path) -> None:
    save(tmp_path, [1], tp_size=1, dp_size=2)
    checkpoint, _ = find_checkpoint(tmp_path)
    assert checkpoint is not None
    for name in ("fragments.json", "state-"):
        with failing_open(name, errno.EIO), pytest.raises(OSError, match="Input/output error"):
            TensorReader(checkpoint).full("weight", "norm")


def test_one_that_cannot_be_read_is_not_deleted_as_superfluous(folder: Path) -> None:
    keep = CheckpointConfig(keep_last=1)
    assert [path.name for path in superfluous(folder, keep)] == ["step-00000002"]
    with failing_open("step-00000002/", errno.EIO):
        assert superfluous(folder, keep) == []
