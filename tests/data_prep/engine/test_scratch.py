"""Temporary files are on the disk that the environment names."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from configs.load import UserError
from data_prep.dataset.atomic import open_atomic
from data_prep.dedup.buckets import BLOCK_ROWS, Buckets
from data_prep.engine.scratch import VARIABLE, scratch_folder


def test_the_environment_names_the_folder(tmp_path: Path) -> None:
    assert scratch_folder(tmp_path, {}) == tmp_path
    assert scratch_folder(tmp_path, {VARIABLE: ""}) == tmp_path
    (tmp_path / "disk").mkdir()
    assert scratch_folder(tmp_path, {VARIABLE: str(tmp_path / "disk")}) == tmp_path / "disk"
    with pytest.raises(UserError, match=rf"^{VARIABLE}: .*none is no folder of this machine"):
        scratch_folder(tmp_path, {VARIABLE: str(tmp_path / "none")})


@pytest.fixture(params=["no folder named", "a folder named"])
def folders(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """The work folder, and the folder where temporary files should be."""
    work, disk = tmp_path / "work", tmp_path / "disk"
    work.mkdir()
    disk.mkdir()
    is_named = request.param == "a folder named"
    monkeypatch.setenv(VARIABLE, str(disk) if is_named else "")
    return work, disk if is_named else work


def test_buckets_are_in_it(folders: tuple[Path, Path]) -> None:
    work, scratch = folders
    with Buckets(work, 2, 1, np.uint32) as buckets:
        files = {os.readlink(f"/proc/self/fd/{buckets._file.fileno()}")}
        assert all(Path(name).parent == scratch for name in files)
        buckets.add(np.array([1, 0]), np.array([[5, 6]]))
        assert [rows.tolist() for rows in buckets.read(1)] == [[[5]]]


def test_a_full_disk_is_named(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    work, scratch = folders

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    rows = np.zeros((1, BLOCK_ROWS))
    with (
        pytest.raises(OSError, match=f"No space left.*'{scratch}'$"),
        open_atomic(work / "result"),  # which is on another disk
        Buckets(work, 2, 1, np.uint32) as buckets,
    ):
        buckets.add(np.zeros(BLOCK_ROWS, np.int64), rows)
    assert not list(work.iterdir())
    assert not list(scratch.iterdir())
