"""An output that cannot be written is found before the work, and named as the user knows it."""

import os
import sys
from pathlib import Path
from unittest import mock

import pytest

from configs import folder_lock
from configs.load import UserError
from configs.writable import check_file, check_folder
from data_prep.dataset.atomic import write_atomic


def test_a_file_needs_a_folder_that_can_be_written(tmp_path: Path) -> None:
    check_file(tmp_path / "new" / "page.html", "--page")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match=f"^--page {tmp_path}: a folder, where the name of a file"):
        check_file(tmp_path, "--page")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^--page .*/file/a: .*/file is no folder"):
        check_file(tmp_path / "file" / "a", "--page")
    check_file(tmp_path / "file", "--page")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [(0, "check its owner and its permissions"), (os.ST_RDONLY, "its file system is read-only")],
)
def test_the_reason_is_named(tmp_path: Path, flags: int, reason: str) -> None:
    """Root may write everywhere but on a read-only file system, hence the mock."""
    with (
        mock.patch.object(os, "access", return_value=False),
        mock.patch.object(os, "statvfs", return_value=mock.Mock(f_flag=flags)),
        pytest.raises(UserError, match=f"^results .*/new: {tmp_path} cannot be written: {reason}$"),
    ):
        check_folder(tmp_path / "new", "results")


COMMANDS = (
    ("average", ["RUN", "--output", "OUT/new"], "--output OUT/new"),
    ("encoder_decoder", ["FOLDER", "PAIRS", "--output", "OUT"], "--output OUT"),
    ("evaluation.make_pairs", ["OUT"], "FOLDER OUT"),
    ("finetuning.demo", ["ROWS", "OUT"], "FOLDER OUT"),
    ("import_hf", ["C.yaml", "--from", "HF", "--write-config", "OUT/c.yaml"], "--write-config OUT"),
    ("plan", ["C.yaml", "--page", "OUT/page.html"], "--page OUT/page.html"),
    ("predict", ["FOLDER", "INPUT", "--output", "OUT/found.csv"], "--output OUT/found.csv"),
    ("report", ["RUN", "--output", "OUT/page.html"], "--output OUT/page.html"),
)
"""Commands, whose other arguments name nothing that exists, and how they call the output."""


@pytest.mark.parametrize(("name", "words", "called"), COMMANDS)
def test_commands_check_their_output_first(
    tmp_path: Path, name: str, words: list[str], called: str
) -> None:
    module = __import__(f"pipeline.{name}", fromlist=["main"])
    argv = [name, *(word.replace("OUT", str(tmp_path)) for word in words)]
    message = f"^{called.replace('OUT', str(tmp_path))}.*: {tmp_path} cannot be written: "
    with (
        mock.patch.object(os, "access", return_value=False),
        mock.patch.object(sys, "argv", argv),
        pytest.raises(UserError, match=message),
    ):
        module.main()
    assert not any(tmp_path.iterdir())


def test_an_error_names_the_file_and_not_its_temporary_name(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    with (
        mock.patch.object(os, "open", side_effect=PermissionError(13, "Permission denied", "tmp")),
        pytest.raises(PermissionError) as caught,
    ):
        write_atomic(path, "text")
    assert caught.value.filename == str(path)


def test_a_lock_that_cannot_be_made_is_an_error() -> None:
    with pytest.raises(UserError, match=r"^/proc/new/lock: cannot be made: No such file"):
        folder_lock.hold(Path("/proc/new"))
