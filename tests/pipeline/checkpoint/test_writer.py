"""Saves: which checkpoints stay, a full disk breaks none, a rank may hold nothing."""

import contextlib
import errno
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file

from configs.load import UserError
from pipeline.checkpoint import writer as checkpoint_writer
from pipeline.checkpoint.config import CheckpointConfig
from pipeline.checkpoint.fragments import Fragment
from pipeline.checkpoint.manifest import find_checkpoint, fragment_name, list_checkpoints, verify
from pipeline.checkpoint.reader import TensorReader
from pipeline.checkpoint.tensor_file import TensorFile
from pipeline.checkpoint.writer import Saver
from tests.gloo import run_ranks
from tests.pipeline.checkpoint.saving import (
    KEEP_ALL,
    SPECS,
    RankOf,
    full_tensors,
    make_manifest,
    save,
    whole_fragments,
)

SAVE_FILE = "pipeline.checkpoint.writer.save_file"


@contextlib.contextmanager
def logged(logger: logging.Logger) -> Iterator[list[str]]:
    """The messages that `logger` gets inside of the block."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def test_only_the_newest_are_kept_and_nothing_unfinished_stays(tmp_path: Path) -> None:
    save(tmp_path, [1, 2, 3, 4], tp_size=2, keep=CheckpointConfig(keep_last=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_every_rule_keeps_its_checkpoints(tmp_path: Path) -> None:
    rules = CheckpointConfig(keep_last=1, keep_every_steps=4, keep_best=1)
    save(tmp_path, list(range(1, 10)), tp_size=1, keep=rules)
    kept = sorted(int(path.name.removeprefix("step-")) for path in tmp_path.iterdir())
    assert kept == [3, 4, 8, 9]  # the best, multiples of four, the newest


def test_a_full_disk_is_reported_and_the_next_save_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_save_file = save_file

    def fail_once(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
        monkeypatch.setattr(SAVE_FILE, real_save_file)
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    def on_rank() -> list[str]:
        saver = Saver(tmp_path, KEEP_ALL, RankOf(0, 0, 0))  # type: ignore[arg-type]
        with logged(checkpoint_writer.logger) as messages:
            saver.save(make_manifest(1, 1), whole_fragments)
            saver._wait()
            monkeypatch.setattr(SAVE_FILE, fail_once)
            saver.save(make_manifest(2, 1), whole_fragments)
            saver._wait()
            saver.report_errors()
            saver.save(make_manifest(3, 1), whole_fragments)
            saver.finish()
            saver.report_errors()
        return messages

    (messages,) = run_ranks(on_rank, 1)
    assert len(messages) == 1
    assert "step 2 was not saved" in messages[0]
    assert "No space left" in messages[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]
    for path in tmp_path.iterdir():
        verify(path)


def save_with_a_full_disk(folder: Path, failing: int) -> list[str]:
    """Three saves of two ranks, of which one finds the disk full in the second."""
    rank = torch.distributed.get_rank()
    saver = Saver(folder, KEEP_ALL, RankOf(rank, 0, rank))  # type: ignore[arg-type]

    def fail(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with logged(checkpoint_writer.logger) as messages:
        for step in (1, 2, 3):
            fails = step == 2 and rank == failing
            with mock.patch(SAVE_FILE, fail if fails else save_file):
                held = whole_fragments() if rank == 0 else {}
                saver.save(make_manifest(step, 1, 2), _held(held))
                saver._wait()
            torch.distributed.barrier()
            saver.report_errors()
        saver.finish()
    return messages


def _held(fragments: Mapping[str, Fragment]) -> Callable[[], Mapping[str, Fragment]]:
    return lambda: fragments


@pytest.mark.parametrize("failing", [0, 1])
def test_a_full_disk_of_any_rank_is_reported_and_cleaned_up(tmp_path: Path, failing: int) -> None:
    messages = run_ranks(save_with_a_full_disk, 2, tmp_path, failing)
    assert "step 2 was not saved" in messages[0][0]
    assert any("No space left" in text or "ENOSPC" in text for text in messages[0])
    assert not any("time out" in text for of_rank in messages for text in of_rank)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]
    for path in tmp_path.iterdir():
        verify(path)


def test_an_old_checkpoint_that_cannot_be_deleted_does_not_spoil_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, **_: object) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy", str(path))

    def on_rank() -> list[str]:
        keep_one = CheckpointConfig(keep_last=1)
        saver = Saver(tmp_path, keep_one, RankOf(0, 0, 0))  # type: ignore[arg-type]
        monkeypatch.setattr(shutil, "rmtree", fail)
        with logged(checkpoint_writer.logger) as messages:
            for step in (1, 2):
                saver.save(make_manifest(step, 1), whole_fragments)
            saver.finish()
        return messages

    (messages,) = run_ranks(on_rank, 1)
    assert len(messages) == 1
    assert "step-00000001 was not deleted" in messages[0]
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000002"]
    verify(tmp_path / "step-00000002")


def test_the_last_save_must_not_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    def on_rank() -> None:
        saver = Saver(tmp_path, KEEP_ALL, RankOf(0, 0, 0))  # type: ignore[arg-type]
        monkeypatch.setattr(SAVE_FILE, fail)
        saver.save(make_manifest(1, 1), lambda: {})
        with pytest.raises(UserError, match="step 1 was not saved"):
            saver.finish()

    run_ranks(on_rank, 1)
    assert not list(tmp_path.iterdir())


def test_a_rank_that_holds_nothing_writes_an_empty_part(tmp_path: Path) -> None:
    """More ranks than a small model has elements."""
    save(tmp_path, [1], tp_size=1, dp_size=1)
    file = TensorFile((tmp_path / "step-00000001" / fragment_name(0, 1, 1)).open("rb"))
    assert set(file.names()) == {f"weight/{name}" for name in SPECS}

    def on_rank() -> None:
        rank = torch.distributed.get_rank()
        saver = Saver(tmp_path, KEEP_ALL, RankOf(rank, 0, rank))  # type: ignore[arg-type]
        saver.save(make_manifest(2, 1, 2), whole_fragments if rank == 0 else dict)
        saver.finish()

    run_ranks(on_rank, 2)
    checkpoint, problems = find_checkpoint(tmp_path)
    assert checkpoint is not None, problems
    assert checkpoint.manifest.step == 2
    assert len(checkpoint.manifest.files) == 2
    reader = TensorReader(checkpoint)
    assert all(torch.equal(reader.full("weight", n), t) for n, t in full_tensors().items())
