"""Checkpoints: any damage is found, a full disk breaks none, any grid reads them."""

import contextlib
import errno
import logging
import random
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from configs.load import UserError
from model.parameters import ParameterSpec, shard_tensor
from pipeline.checkpoint import writer as checkpoint_writer
from pipeline.checkpoint.config import CheckpointConfig
from pipeline.checkpoint.manifest import MANIFEST_NAME, find_checkpoint, list_checkpoints, verify
from pipeline.checkpoint.reader import TensorReader, check_checkpoint
from pipeline.checkpoint.writer import Saver
from tests.gloo import run_ranks
from tests.pipeline.checkpoint.saving import (
    HIDDEN,
    KEEP_ALL,
    SPECS,
    VOCAB_SIZE,
    RankOf,
    full_tensors,
    host_tensors,
    make_manifest,
    save,
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


@pytest.mark.parametrize("saved_at", [1, 2, 4])
@pytest.mark.parametrize("read_at", [1, 2, 4])
def test_any_grid_reads_what_any_grid_saved(tmp_path: Path, saved_at: int, read_at: int) -> None:
    save(tmp_path, [3], saved_at)
    checkpoint, problems = find_checkpoint(tmp_path)
    assert checkpoint is not None
    assert not problems
    reader = TensorReader(checkpoint)
    for name, full in full_tensors(3).items():
        assert torch.equal(reader.full("weight", name), full)
        for rank in range(read_at if SPECS[name].partition_dim is not None else 1):
            wanted = shard_tensor(SPECS[name], full, rank, read_at)
            assert torch.equal(reader.local("weight", name, SPECS[name], rank, read_at), wanted)


def test_only_the_newest_are_kept_and_nothing_unfinished_stays(tmp_path: Path) -> None:
    save(tmp_path, [1, 2, 3, 4], tp_size=2, keep=CheckpointConfig(keep_last=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_every_rule_keeps_its_checkpoints(tmp_path: Path) -> None:
    rules = CheckpointConfig(keep_last=1, keep_every_steps=4, keep_best=1)
    save(tmp_path, list(range(1, 10)), tp_size=1, keep=rules)
    kept = sorted(int(path.name.removeprefix("step-")) for path in tmp_path.iterdir())
    assert kept == [3, 4, 8, 9]  # the best, multiples of four, the newest


def test_every_flipped_byte_and_truncation_is_found(tmp_path: Path) -> None:
    save(tmp_path, [5], tp_size=2)
    whole = tmp_path / "step-00000005"
    files = sorted(whole.iterdir())
    assert len(files) == 3
    generator = random.Random(0)
    for trial in range(200):
        copy = tmp_path / f"copy-{trial}"
        shutil.copytree(whole, copy)
        victim = copy / generator.choice(files).name
        content = bytearray(victim.read_bytes())
        place = generator.randrange(len(content))
        if trial % 2:
            victim.write_bytes(content[:place])
        else:
            content[place] ^= 1 << generator.randrange(8)
            victim.write_bytes(content)
        with pytest.raises(UserError, match="damaged checkpoint"):
            verify(copy)
        shutil.rmtree(copy)


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_taken(tmp_path: Path) -> None:
    save(tmp_path, [1, 2], tp_size=1)
    part = next((tmp_path / "step-00000002").glob("*.safetensors"))
    part.write_bytes(part.read_bytes()[:-1])
    checkpoint, problems = find_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.manifest.step == 1
    assert len(problems) == 1
    assert str(part) in problems[0]
    assert part.exists()


def test_a_folder_without_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, [1], tp_size=1)
    (tmp_path / "step-00000001" / MANIFEST_NAME).unlink()
    checkpoint, problems = find_checkpoint(tmp_path)
    assert checkpoint is None
    assert "not a checkpoint" in problems[0]


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
            saver.save(make_manifest(1, 1), host_tensors)
            saver._wait()
            monkeypatch.setattr(SAVE_FILE, fail_once)
            saver.save(make_manifest(2, 1), host_tensors)
            saver._wait()
            saver.report_errors()
            saver.save(make_manifest(3, 1), host_tensors)
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
                saver.save(make_manifest(step, 1), host_tensors)
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


def test_a_checkpoint_of_another_model_is_refused_difference_by_difference() -> None:
    specs = {
        "word": ParameterSpec((VOCAB_SIZE + 1, HIDDEN), 0),
        "norm": SPECS["norm"],
        "extra": ParameterSpec((3,), None),
    }
    with pytest.raises(UserError) as caught:
        check_checkpoint(make_manifest(4, 1), specs, "u")
    message = str(caught.value)
    assert "no parameter extra" in message
    assert "parameter down, which this model does not have" in message
    assert f"word has the shape [{VOCAB_SIZE}, {HIDDEN}], this model needs" in message
    assert "a different tokenizer" in message
