"""The files of a source: found in a fixed order, unreadable folders reported, changes detected."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.load import UserError
from data_prep.readers.document import BadRecords
from data_prep.readers.files import list_files
from tests.data_prep.corpora import random_texts, write_forum
from tests.data_prep.readers.reading import WHOLE_BYTES, reader_config


def write_files(folder: Path, *names: str) -> None:
    """Files that hold their names."""
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)


def failing_scandir(fails: Callable[[str], bool], code: int) -> Callable[[Any], Any]:
    """os.scandir, with the error `code` for folders that cannot be read."""
    scandir = os.scandir

    def scan(path: Any) -> Any:
        if fails(str(path)):
            raise OSError(code, os.strerror(code), str(path))
        return scandir(path)

    return scan


def test_files_are_found_by_pattern_in_a_fixed_order(tmp_path: Path) -> None:
    write_files(tmp_path, "b/2.txt", "a/1.txt", "a/0.md", "c.txt")
    patterns = [str(tmp_path / "**/*.txt"), str(tmp_path / "a/*")]
    found = list_files(patterns, "files")
    assert [Path(file.path).name for file in found] == ["0.md", "1.txt", "2.txt", "c.txt"]
    with pytest.raises(UserError, match=r"files: '.*/\*\.csv' matches no file"):
        list_files([str(tmp_path / "*.csv")], "files")
    with pytest.raises(UserError, match="is a folder"):
        list_files([str(tmp_path / "a")], "files")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("pattern", ["*/*.txt", "**/*.txt", "b/*.txt", "[ab]/[0-9].txt"])
def test_a_folder_that_cannot_be_read_stops_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, pattern: str
) -> None:
    """glob alone would skip it, and its documents would be missing silently."""
    write_files(tmp_path, "a/1.txt", "b/2.txt", "lost+found/3.txt")
    unreadable = str(tmp_path / "b")
    scan = failing_scandir(lambda path: path.rstrip("/") == unreadable, code)
    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(UserError, match=rf"files: {tmp_path}/b cannot be read: .*mounted"):
        list_files([f"{tmp_path}/{pattern}"], "files")
    found = list_files([f"{tmp_path}/a/*.txt"], "files")
    assert [file.name for file in found] == ["1.txt"]


def test_an_unreadable_folder_outside_the_pattern_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path, "a1/1.txt", "a2/2.txt", "lost+found/3.txt")
    scan = failing_scandir(lambda path: "lost+found" in path, errno.EACCES)
    monkeypatch.setattr(os, "scandir", scan)
    found = list_files([f"{tmp_path}/a?/*.txt"], "files")
    assert [file.name for file in found] == ["a1/1.txt", "a2/2.txt"]


def test_a_file_where_a_folder_is_expected_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "raw").write_text("no folder")
    with pytest.raises(UserError, match=r"files: '.*/raw/\*\.txt' matches no file"):
        list_files([f"{tmp_path}/raw/*.txt"], "files")


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_file_that_changes_or_disappears_after_planning_stops_the_job(
    tmp_path: Path, scheme: str
) -> None:
    write_forum(tmp_path, random_texts(20))
    path = tmp_path / "forum.jsonl"
    config = reader_config({"type": "jsonl", "files": [f"{scheme}{path}"]})
    (file,) = list_files(config.files, "files")
    reader = config.build()
    (span,) = reader.spans(file, WHOLE_BYTES)
    path.write_text(path.read_text() + '{"text": "more"}\n')
    with pytest.raises(UserError, match=r"changed since the plan(.|\n)*--restart-from ingest"):
        list(reader.read(span, BadRecords("skip")))
    path.unlink()
    with pytest.raises(UserError, match="disappeared since the plan"):
        list(reader.read(span, BadRecords("skip")))
