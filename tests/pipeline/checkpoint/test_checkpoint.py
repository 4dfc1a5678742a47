"""Checkpoints: any damage is found, a full disk breaks none, any grid reads them."""

import contextlib
import errno
import json
import logging
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file

from configs.load import UserError
from model.parallel.grid import make_grid
from model.parameters import ParameterSpec, shard_tensor
from pipeline.checkpoint import writer as checkpoint_writer
from pipeline.checkpoint.config import CheckpointConfig
from pipeline.checkpoint.fragments import FRAGMENTS_NAME, Fragment
from pipeline.checkpoint.manifest import (
    MANIFEST_NAME,
    Checkpoint,
    find_checkpoint,
    fragment_name,
    list_checkpoints,
    read_manifest,
    verify,
)
from pipeline.checkpoint.newest import newest_checkpoint
from pipeline.checkpoint.reader import TensorReader, check_checkpoint
from pipeline.checkpoint.tensor_file import TensorFile
from pipeline.checkpoint.writer import Saver
from tests.gloo import run_ranks
from tests.pipeline.checkpoint.saving import (
    HIDDEN,
    KEEP_ALL,
    SPECS,
    VOCAB_SIZE,
    RankOf,
    full_tensors,
    make_manifest,
    make_whole,
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


@pytest.mark.parametrize("saved_at", [(1, 1), (2, 1), (4, 1), (1, 3), (2, 2), (4, 2)])
@pytest.mark.parametrize("is_whole", [False, True])
def test_any_grid_reads_what_any_grid_saved(
    tmp_path: Path, saved_at: tuple[int, int], is_whole: bool
) -> None:
    tp_size, dp_size = saved_at
    save(tmp_path, [3], tp_size, dp_size=dp_size)
    if is_whole:
        make_whole(tmp_path / "step-00000003", tp_size)
    checkpoint, problems = find_checkpoint(tmp_path)
    assert checkpoint is not None
    assert not problems
    assert len(checkpoint.manifest.files) == (tp_size if is_whole else tp_size * dp_size)
    reader = TensorReader(checkpoint)
    for name, full in full_tensors(3).items():
        spec = SPECS[name]
        assert torch.equal(reader.full("weight", name), full)
        for read_at in (1, 2, 4):
            for rank in range(read_at if spec.partition_dim is not None else 1):
                wanted = shard_tensor(spec, full, rank, read_at)
                found = reader.local("weight", name, spec, rank, read_at)
                assert torch.equal(found, wanted)
                flat = wanted.flatten()
                for start, end in ((0, len(flat)), (1, len(flat) // 2), (len(flat) - 1, len(flat))):
                    place = ((rank, read_at), start, end - start)
                    piece = reader.local_piece(("weight", name), spec, *place)
                    assert torch.equal(piece, flat[start:end])
                # ZeRO 3 pads the last piece, or has no element of a parameter on a rank.
                for start in (len(flat) - 1, len(flat), len(flat) + 3):
                    place = ((rank, read_at), start, 5)
                    piece = reader.local_piece(("weight", name), spec, *place)
                    expected = torch.zeros(5)
                    expected[: max(0, len(flat) - start)] = flat[start:]
                    assert torch.equal(piece, expected)


def test_a_rank_opens_only_the_files_that_hold_its_pieces(tmp_path: Path) -> None:
    save(tmp_path, [3], tp_size=2, dp_size=3)
    path = tmp_path / "step-00000003"
    own = fragment_name(2 + 1, 2, 3)  # data-parallel rank 1, tensor-parallel rank 1
    assert (path / own).exists()
    for part in path.glob("*.safetensors"):
        if part.name != own:
            part.unlink()
    reader = TensorReader(Checkpoint(path, read_manifest(path)))
    full = full_tensors(3)["down"]
    flat = shard_tensor(SPECS["down"], full, 1, 2).flatten()
    start, end = len(flat) // 3, 2 * len(flat) // 3
    place = ((1, 2), start, end - start)
    piece = reader.local_piece(("weight", "down"), SPECS["down"], *place)
    assert torch.equal(piece, flat[start:end])
    with pytest.raises(
        UserError, match=r"dp00000-of-00003\.safetensors: damaged checkpoint: No such"
    ):
        reader.local("weight", "down", SPECS["down"], 1, 2)


def read_newest(folder: Path, tp_size: int) -> str:
    """The name of the newest checkpoint that the ranks agree on."""
    found = newest_checkpoint(folder, make_grid(tp_size))
    return "" if found is None else found.path.name


def test_all_ranks_verify_and_agree(tmp_path: Path) -> None:
    save(tmp_path, [1, 2, 3, 4], tp_size=2, dp_size=2)
    damaged = sorted((tmp_path / "step-00000003").glob("*.safetensors"))[-1]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    (tmp_path / "step-00000004" / FRAGMENTS_NAME).unlink()
    for ranks in (1, 3):
        assert run_ranks(read_newest, ranks, tmp_path, 1) == ["step-00000002"] * ranks
    assert run_ranks(read_newest, 2, tmp_path / "none", 2) == ["", ""]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("down", lambda found: found[:-1], "elements are no slices|do not make"),
        ("down", lambda found: [], "do not make"),
        ("down", lambda found: [*found, found[0]], "are not there once"),
        ("down", lambda found: [[file, at + 1, n] for file, at, n in found], "not there once"),
        ("down", lambda found: [[file + 9, at, n] for file, at, n in found], "not in the manifest"),
        ("down", lambda found: [[-1, 0, 1]], "greater than or equal to 0"),
        ("norm", lambda found: [[1, 0, HIDDEN - 1]], "5 elements"),
        ("norm", lambda found: [[1, 0, HIDDEN + 1]], "7 elements"),
        ("norm", lambda found: [], "do not make"),
    ],
)
def test_tables_of_fragments_that_cannot_be_are_refused(
    tmp_path: Path,
    name: str,
    change: Callable[[list[list[int]]], list[list[int]]],
    message: str,
) -> None:
    """As someone could write them who knows the format."""
    save(tmp_path, [3], tp_size=1, dp_size=2)
    path = tmp_path / "step-00000003"
    table = json.loads((path / FRAGMENTS_NAME).read_text())
    table[name]["pieces"] = change(table[name]["pieces"])
    (path / FRAGMENTS_NAME).write_text(json.dumps(table))
    with pytest.raises(UserError, match=message):
        TensorReader(Checkpoint(path, read_manifest(path)))


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
    assert len(files) == 4
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
