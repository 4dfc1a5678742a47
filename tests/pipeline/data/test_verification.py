"""Shards are verified by all ranks, a share each, and those that were right are remembered."""

import contextlib
import errno
import os
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from configs.load import UserError
from data_prep.dataset.manifest import read_manifest, write_manifest
from data_prep.dataset.verify import file_problem
from pipeline.data import verification
from pipeline.data.config import DataConfig
from pipeline.data.verification import VERIFIED_NAME, verify_contents
from pipeline.launch.signals import StopRequest
from tests.gloo import RankError, run_ranks
from tests.pipeline.training_run import make_config, make_rows, pretrain

RANKS = 2


def make_data_sets(tmp_path: Path) -> list[Path]:
    """Two data sets of four shards each."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for number, folder in enumerate(folders):
        make_rows(folder, seed=number)
    return folders


def hashed(
    folders: list[Path], run: Path, verify: str = "full", is_stopped: bool = False
) -> list[str]:
    """The paths of the shards that this rank hashed."""
    stop = StopRequest()
    if is_stopped:
        stop.signal_name = "SIGTERM"
    data_sets = [
        (DataConfig.model_validate({"path": folder, "verify": verify}), read_manifest(folder))
        for folder in folders
    ]
    run.mkdir(exist_ok=True)
    with (
        mock.patch.object(verification, "file_problem", wraps=file_problem) as compare,
        contextlib.suppress(UserError),
    ):
        verify_contents(data_sets, run, stop)
    assert all(sha256 is not None for *_, sha256 in (call.args for call in compare.mock_calls))
    return [str(folder / name) for folder, name, *_ in (call.args for call in compare.mock_calls)]


def hashed_by_all(*args: Any) -> list[str]:
    """The paths of the shards that any rank hashed, sorted; one hashed twice stands twice."""
    return sorted(chain.from_iterable(run_ranks(hashed, RANKS, *args)))


def error_of(folders: list[Path], run: Path) -> str:
    """What verification raises on this rank."""
    data_sets = [(DataConfig(path=folder), read_manifest(folder)) for folder in folders]
    with pytest.raises(UserError) as caught:
        verify_contents(data_sets, run)
    return str(caught.value)


def shards(*folders: Path) -> list[str]:
    return sorted(
        str(folder / shard.path) for folder in folders for shard in read_manifest(folder).shards()
    )


def with_shard(folder: Path, **changes: Any) -> str:
    """Changes the first shard's entry in the manifest of `folder`; the path of its file."""
    manifest = read_manifest(folder)
    source = manifest.splits["train"]["a"]
    shard = source.shards[0].model_copy(update=changes)
    source = source.model_copy(update={"shards": (shard, *source.shards[1:])})
    train = {**manifest.splits["train"], "a": source}
    write_manifest(
        folder, manifest.model_copy(update={"splits": {**manifest.splits, "train": train}})
    )
    return str(folder / shard.path)


def test_each_shard_is_hashed_by_one_rank_and_once(tmp_path: Path) -> None:
    folders, run = make_data_sets(tmp_path), tmp_path / "run"
    first, second = run_ranks(hashed, RANKS, [*folders, folders[0]], run)
    assert sorted(first + second) == shards(*folders)
    assert len(first) == len(second)
    assert run_ranks(hashed, RANKS, folders, run) == [[], []]
    changed = Path(first[1])
    os.utime(changed, ns=(0, 1))
    assert hashed_by_all(folders, run) == [str(changed)]


def test_hashes_of_another_manifest_are_not_remembered(tmp_path: Path) -> None:
    folders, run = make_data_sets(tmp_path), tmp_path / "run"
    run_ranks(hashed, RANKS, folders, run)
    manifest = read_manifest(folders[0])
    shard = manifest.splits["train"]["a"].shards[0]
    with_shard(folders[0], sha256="0" * 64)
    for message in run_ranks(error_of, RANKS, folders, run):
        assert f"{shard.path}: its sha256 is not the manifest's" in message


def test_all_ranks_name_all_damaged_files(tmp_path: Path) -> None:
    folders, run = make_data_sets(tmp_path), tmp_path / "run"
    paths = [Path(path) for path in shards(*folders)]
    paths[0].unlink()
    for path in paths[3:5]:  # of both data sets
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    first, second = run_ranks(error_of, RANKS, folders, run)
    assert first == second
    assert f"{paths[0].name}: missing" in first
    for path in paths[3:5]:
        assert f"{path.name}: its sha256 is not the manifest's" in first
    assert str(folders[0]) in first
    assert str(folders[1]) in first
    damaged = sorted(str(path) for path in (paths[0], *paths[3:5]))
    assert hashed_by_all(folders, run) == damaged


def error_without(folders: list[Path], run: Path, name: str) -> str:
    """What verification raises on this rank where no rank can read files of a name."""
    real = os.open

    def open_or_fail(path: Any, *arguments: Any, **named: Any) -> int:
        if str(path).endswith(name):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path, *arguments, **named)

    with mock.patch.object(os, "open", open_or_fail):
        return error_of(folders, run)


def test_all_ranks_name_the_files_that_one_cannot_read(tmp_path: Path) -> None:
    folders, run = make_data_sets(tmp_path), tmp_path / "run"
    name = Path(shards(*folders)[1]).name
    for message in run_ranks(error_without, RANKS, folders, run, name):
        assert message.count(f"/{name}: cannot be read: Input/output error") == 4  # two a folder
        assert "restore them from a copy" in message


def test_a_stop_signal_leaves_the_rest_for_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "ROUND_BYTES", 1)  # a shard a rank
    folders, run = make_data_sets(tmp_path), tmp_path / "run"
    first = hashed_by_all(folders, run, "full", True)
    assert len(first) == RANKS
    rest = hashed_by_all(folders, run)
    assert sorted(first + rest) == shards(*folders)


def test_a_launch_that_is_stopped_meanwhile_takes_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_rows(tmp_path / "rows")
    config = make_config(tmp_path / "rows", tmp_path / "run")
    with monkeypatch.context() as stopped:
        stopped.setattr("pipeline.training.session.verify_contents", lambda *_: False)
        run_ranks(pretrain, RANKS, config)
    assert not (config.output / "checkpoints").exists()
    run_ranks(pretrain, RANKS, config)
    assert (config.output / "DONE").exists()


def test_what_was_verified_before_a_kill_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "ROUND_BYTES", 1)
    folders, run = make_data_sets(tmp_path), tmp_path / "run"
    with pytest.raises(RankError):
        run_ranks(killed_in_second_round, RANKS, folders, run)
    assert len(hashed_by_all(folders, run)) == len(shards(*folders)) - RANKS


def killed_in_second_round(folders: list[Path], run: Path) -> None:
    done = []

    def kill_at_second(*args: Any) -> str | None:
        done.append(args)
        if len(done) > 1:
            os._exit(1)
        return file_problem(*args)

    data_sets = [(DataConfig(path=folder), read_manifest(folder)) for folder in folders]
    run.mkdir(exist_ok=True)
    with mock.patch.object(verification, "file_problem", kill_at_second):
        verify_contents(data_sets, run)


def test_one_folder_under_two_names_is_hashed_once(tmp_path: Path) -> None:
    folders, run = make_data_sets(tmp_path)[:1], tmp_path / "run"
    link = tmp_path / "link"
    link.symlink_to(folders[0])
    assert hashed_by_all([link, *folders], run) == shards(*folders)


def test_blocks_without_checksums_are_hashed_at_every_start(tmp_path: Path) -> None:
    folders, run = make_data_sets(tmp_path)[:1], tmp_path / "run"
    path = with_shard(folders[0], block_xxh3_64=None)
    assert hashed_by_all(folders, run) == shards(*folders)
    for _ in range(2):
        assert hashed_by_all(folders, run) == [path]


@pytest.mark.parametrize(
    "content",
    ["", "[1]", '{"a": [1e999, 0, "x"]}', "[" * 200_000, '{"a": 3}', '{"a": ["x", "y", "z"]}'],
)
def test_a_damaged_memory_costs_hashing_only(tmp_path: Path, content: str) -> None:
    folders, run = make_data_sets(tmp_path), tmp_path / "run"
    run.mkdir()
    (run / VERIFIED_NAME).write_text(content)
    assert hashed_by_all(folders, run) == shards(*folders)


def test_sizes_alone_leave_no_file(tmp_path: Path) -> None:
    folders, run = make_data_sets(tmp_path), tmp_path / "run"
    assert run_ranks(hashed, RANKS, folders, run, "sizes") == [[], []]
    assert list(run.iterdir()) == []
