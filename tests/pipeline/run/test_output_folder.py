"""An output that cannot be a run's folder is an error before anything else happens."""

import os
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from configs.load import ConfigError
from pipeline.run.output_folder import check_output


def file(folder: Path) -> Path:
    path = folder / "file"
    path.touch()
    return path


def below_a_file(folder: Path) -> Path:
    return file(folder) / "a" / "b"


def checkpoints_are_a_file(folder: Path) -> Path:
    (folder / "run").mkdir()
    (folder / "run" / "checkpoints").touch()
    return folder / "run"


def broken_link(folder: Path) -> Path:
    path = folder / "link"
    path.symlink_to(folder / "nothing")
    return path


def too_long(folder: Path) -> Path:
    return folder / ("n" * 300)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (file, "file is no folder"),
        (below_a_file, "file is no folder"),
        (checkpoints_are_a_file, "checkpoints is no folder"),
        (broken_link, "is a link to nothing"),
        (too_long, "File name too long"),
    ],
)
def test_what_cannot_be_a_folder(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    output = make(tmp_path)
    made = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=message):
        check_output(output)
    assert sorted(tmp_path.rglob("*")) == made
    assert len(made) >= len(before)


@pytest.mark.parametrize("output", ["run", "new/run", "."])
def test_a_folder_that_is_not_writable(tmp_path: Path, output: str) -> None:
    """Root may write everywhere but on a read-only file system, hence the mock."""
    refuse = mock.patch.object(os, "access", return_value=False)
    with refuse, pytest.raises(ConfigError, match="cannot be written"):
        check_output(tmp_path / output)


@pytest.mark.parametrize("output", ["run", "new/run", ".", "a?b#c%20d[e]"])
def test_folders_that_exist_or_can_be_made(tmp_path: Path, output: str) -> None:
    check_output(tmp_path / output)
    (tmp_path / output).mkdir(parents=True, exist_ok=True)
    check_output(tmp_path / output)
    (tmp_path / output / "checkpoints").mkdir()
    check_output(tmp_path / output)


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_output(Path("runs/demo"))
    (tmp_path / "runs").touch()
    with pytest.raises(ConfigError, match="runs is no folder"):
        check_output(Path("runs/demo"))
