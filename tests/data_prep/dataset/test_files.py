"""Files that someone else may have made: only regular ones, inside of their folder, bounded."""

import os
import re
from pathlib import Path

import pytest

from configs.load import UserError
from data_prep.dataset.files import open_inside, open_regular, read_at, read_json, read_regular

DEEP = "[" * 100_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_text("secret")
    (inside / "plain").write_text("plain")
    return inside


@pytest.mark.parametrize("name", ["../secret", "link", "links/secret", "/etc/passwd"])
def test_no_path_leaves_the_folder(folder: Path, name: str) -> None:
    (folder / "link").symlink_to("../secret")
    (folder / "links").symlink_to("..")
    with pytest.raises(UserError, match="outside of the folder"):
        open_inside(folder, name)


def test_links_inside_the_folder_and_to_the_folder_are_followed(folder: Path) -> None:
    (folder / "link").symlink_to("plain")
    (folder.parent / "alias").symlink_to(folder)
    for name in ("link", "plain"):
        with open_inside(folder.parent / "alias", name) as file:
            assert file.read() == b"plain"


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_what_is_no_regular_file_is_refused_at_once(folder: Path, kind: str) -> None:
    path = folder / kind
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path = Path("/dev/zero")
    with pytest.raises(UserError, match=f"{path}: not a regular file"):
        read_regular(path)


def test_content_is_bounded(folder: Path) -> None:
    with pytest.raises(UserError, match=r"plain: more than 4 bytes"):
        read_regular(folder / "plain", limit_bytes=4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' appears twice"),
        (DEEP, "nested too deeply"),
        ('{"a": "\\ud800"}', "surrogates not allowed"),
        ("[1]", "not a JSON mapping"),
        (b"\xff\xfe{}", "not valid JSON"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
    ],
)
def test_odd_json_is_a_message(folder: Path, content: str | bytes, message: str) -> None:
    path = folder / "tree.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=message):
        read_json(path)


def test_a_file_that_ends_early_or_cannot_be_read_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = memoryview(bytearray(4))
    with open_regular(folder / "plain") as file:
        read_at(file, buffer, 1, "restore it")
        assert bytes(buffer) == b"lain"
        with pytest.raises(UserError, match=r"plain: has no byte 5: it became shorter.*restore it"):
            read_at(file, buffer, 2, "restore it")

        def fail(*_: object) -> int:
            raise OSError(5, os.strerror(5))

        monkeypatch.setattr(os, "preadv", fail)
        message = re.escape("plain: cannot be read at byte 2: Input/output error; restore it")
        with pytest.raises(UserError, match=message):
            read_at(file, buffer, 2, "restore it")
