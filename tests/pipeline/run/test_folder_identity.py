"""A copy of a run's folder is a new run with a parent; a folder that was moved is the same run."""

import json
import shutil
from pathlib import Path

import pytest

from configs.load import UserError
from pipeline.run.folder_identity import IDENTITY_NAME, identify, separate
from pipeline.run.run_folder import claim
from pipeline.tracking.event_log import EventLog
from tests.pipeline.training_run import make_config


@pytest.fixture
def original(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    identify(folder)
    return folder


def test_a_folder_keeps_its_identity(original: Path) -> None:
    assert identify(original) == identify(original)
    alias = original.with_name("alias")
    alias.symlink_to(original)
    assert identify(alias) == identify(original)


def test_a_moved_folder_is_the_same_run(original: Path) -> None:
    before = identify(original)
    moved = original.rename(original.with_name("moved"))
    after = identify(moved)
    assert (after.id, after.owner, after.path) == (before.id, before.owner, str(moved))
    back = moved.rename(original)
    assert identify(back).id == before.id


@pytest.mark.parametrize("fate", ["kept", "deleted", "moved", "replaced"])
def test_a_copy_is_a_new_run(original: Path, fate: str) -> None:
    before = identify(original)
    copy = original.with_name("copy")
    shutil.copytree(original, copy)
    if fate == "deleted":
        shutil.rmtree(original)
    elif fate == "moved":
        original.rename(original.with_name("elsewhere"))
    elif fate == "replaced":
        shutil.rmtree(original)
        original.mkdir()
        identify(original)
    after = identify(copy)
    assert after.id != before.id
    assert after.parent is not None
    assert (after.parent.id, after.parent.path) == (before.id, str(original))
    assert identify(copy) == after
    if fate == "moved":
        assert identify(original.with_name("elsewhere")).id == before.id


def test_a_copy_on_a_different_machine_at_the_same_path_is_a_new_run(
    original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = identify(original)
    backup = shutil.copytree(original, original.with_name("backup"))
    shutil.rmtree(original)
    shutil.copytree(backup, original)
    restored = identify(original)
    assert restored.id == before.id, "restored on the same machine"
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    stored = json.loads((original / IDENTITY_NAME).read_text())
    (original / IDENTITY_NAME).write_text(json.dumps(stored | {"inode": 1}))
    assert identify(original).id != before.id


@pytest.mark.parametrize("is_copy", [True, False])
def test_a_folder_of_an_older_version(tmp_path: Path, is_copy: bool) -> None:
    config = make_config(tmp_path / "rows", tmp_path / "run")
    claim(config, "rows")
    EventLog(config.output)
    (config.output / IDENTITY_NAME).unlink()
    key = json.loads((config.output / "events.jsonl").read_text())["key"]
    other = tmp_path / "other"
    if is_copy:
        shutil.copytree(config.output, other)
    else:
        config.output.rename(other)
    claim(make_config(tmp_path / "rows", other), "rows")
    found = identify(other)
    assert (found.id == key) != is_copy
    if is_copy:
        assert identify(config.output).id == key
        assert found.parent is not None
        assert found.parent.id == key


def test_a_second_folder_of_one_run_becomes_a_run_of_its_own(original: Path) -> None:
    before = identify(original)
    after = separate(original, before)
    assert after.id != before.id
    assert identify(original) == after


def test_a_damaged_identity_is_reported(original: Path) -> None:
    (original / IDENTITY_NAME).write_text("{")
    with pytest.raises(UserError, match=r"folder\.json: damaged"):
        identify(original)
