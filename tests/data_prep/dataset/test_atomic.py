"""Files appear whole, and nothing that stands in their way is followed or written."""

import os
import secrets
import stat
from pathlib import Path

import pytest

from data_prep.dataset.atomic import PARTIAL_MARK, open_atomic, write_atomic


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    monkeypatch.setattr(secrets, "token_hex", lambda num_bytes: "0" * 8)
    target = tmp_path / "new"
    planted = target.with_name(f"new{PARTIAL_MARK}{os.getpid()}-{'0' * 8}")
    planted.symlink_to(precious)
    with pytest.raises(FileExistsError):
        write_atomic(target, "text")
    planted.unlink()
    planted.write_text("of somebody else")
    with pytest.raises(FileExistsError):
        write_atomic(target, "text")
    assert precious.read_text() == "keep me"
    assert planted.read_text() == "of somebody else"
    assert not target.exists()


def test_a_link_in_the_place_of_the_file_is_replaced(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    (tmp_path / "new").symlink_to(precious)
    write_atomic(tmp_path / "new", "text")
    assert precious.read_text() == "keep me"
    assert (tmp_path / "new").read_text() == "text"
    assert not (tmp_path / "new").is_symlink()


def test_names_differ_in_one_process_and_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    with open_atomic(tmp_path / "a") as one, open_atomic(tmp_path / "a") as two:
        assert len(list(tmp_path.iterdir())) == 2
        one.write(b"one")
        two.write(b"two")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    umask = os.umask(0o027)
    try:
        write_atomic(tmp_path / "b", "text")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o640
    with pytest.raises(ZeroDivisionError), open_atomic(tmp_path / "c"):
        raise ZeroDivisionError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
