"""Checkpoints: any damage is found, a full disk breaks none, any grid reads them."""

import contextlib
import dataclasses
import errno
import json
import logging
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from configs.load import UserError
from model.parameters import ParameterSpec, shard_tensor, unpad_local
from pipeline.checkpoint import writer as checkpoint_writer
from pipeline.checkpoint.config import CheckpointConfig
from pipeline.checkpoint.manifest import (
    MANIFEST_NAME,
    CheckpointManifest,
    Origin,
    build_manifest,
    find_checkpoint,
    list_checkpoints,
    manifest_json,
    newest_step,
    read_manifest,
    tensor_key,
    tree_sha256,
    verify,
)
from pipeline.checkpoint.reader import TensorReader, check_checkpoint
from pipeline.checkpoint.writer import Saver
from pipeline.data.position import Segment
from tests.gloo import run_ranks

SAVE_FILE = "pipeline.checkpoint.writer.save_file"
VOCAB_SIZE, PADDED, HIDDEN = 13, 16, 6
HELDOUT_LOSSES = {2: 5.0, 3: 1.0, 7: 4.0}
KEEP_ALL = CheckpointConfig(keep_last=10)
SPECS = {
    "word": ParameterSpec((VOCAB_SIZE, HIDDEN), 0, padded_size=PADDED),
    "down": ParameterSpec((HIDDEN, 8), 1),
    "norm": ParameterSpec((HIDDEN,), None),
}


ORIGIN = Origin(
    config={},
    seed=1,
    tp_size=1,
    dp_size=1,
    zero_stage=1,
    vocab_size=VOCAB_SIZE,
    data_fingerprint="d",
    tokenizer_sha256="t",
    versions={},
    state_keys=("weight",),
)


class RankOf:
    """The parts of a grid that the writer uses."""

    def __init__(self, rank: int, tp_rank: int, dp_rank: int) -> None:
        self.rank, self.tp_rank, self.dp_rank = rank, tp_rank, dp_rank


def full_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(spec.full_shape, generator=generator) for name, spec in SPECS.items()}


def make_manifest(step: int, tp_size: int) -> CheckpointManifest:
    return build_manifest(
        dataclasses.replace(ORIGIN, tp_size=tp_size),
        SPECS,
        step=step,
        optimizer_step=step,
        consumed_rows=step * 4,
        segments=(Segment(phase=0, start_row=0, weights=None),),
        heldout_loss=HELDOUT_LOSSES.get(step),
    )


def host_tensors() -> Mapping[str, torch.Tensor]:
    return {tensor_key("weight", name): tensor for name, tensor in full_tensors().items()}


def save(folder: Path, steps: list[int], tp_size: int, keep: CheckpointConfig = KEEP_ALL) -> None:
    run_ranks(_save_on_rank, tp_size, folder, steps, tp_size, keep)


def _save_on_rank(folder: Path, steps: list[int], tp_size: int, keep: CheckpointConfig) -> None:
    rank = torch.distributed.get_rank()
    saver = Saver(folder, keep, RankOf(rank, rank, 0))  # type: ignore[arg-type]
    for step in steps:
        tensors = {}
        for name, full in full_tensors(step).items():
            local = shard_tensor(SPECS[name], full, rank, tp_size)
            tensors[tensor_key("weight", name)] = unpad_local(
                SPECS[name], local, rank, tp_size
            ).contiguous()
        saver.save(make_manifest(step, tp_size), _snapshot_of(tensors))
    saver.finish()


def _snapshot_of(tensors: dict[str, torch.Tensor]) -> Callable[[], dict[str, torch.Tensor]]:
    return lambda: tensors


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


def test_the_manifest_is_plain_json(tmp_path: Path) -> None:
    save(tmp_path, [1], tp_size=2)
    tree = json.loads((tmp_path / "step-00000001" / MANIFEST_NAME).read_text())
    assert tree["consumed_rows"] == 4
    assert [record["path"] for record in tree["files"]] == [
        "state-tp000-of-002.safetensors",
        "state-tp001-of-002.safetensors",
    ]


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    save(tmp_path, [1], tp_size=2)
    manifest = read_manifest(tmp_path / "step-00000001")
    assert manifest.sha256 is not None
    assert manifest_json(manifest) == (tmp_path / "step-00000001" / MANIFEST_NAME).read_text()
    files = {"files": (), "sha256": None}
    assert manifest.model_copy(update=files) == make_manifest(1, 2)


def write_tree(folder: Path, tree: dict[str, object]) -> CheckpointManifest:
    """The manifest that is read where an older version has written `tree`."""
    folder.mkdir()
    tree = {key: value for key, value in tree.items() if key != "sha256"}
    text = json.dumps({**tree, "sha256": tree_sha256(tree)})
    (folder / MANIFEST_NAME).write_text(text)
    return read_manifest(folder)


def test_fields_that_older_versions_do_not_know_are_written_only_where_they_are_used() -> None:
    assert not {"dev_error", "network"} & set(json.loads(manifest_json(make_manifest(1, 1))))
    origin = dataclasses.replace(ORIGIN, network={"num_layers": 2})
    finetuned = build_manifest(
        origin, SPECS, step=1, optimizer_step=1, consumed_rows=4, dev_error=0.25
    )
    tree = json.loads(manifest_json(finetuned))
    assert tree["dev_error"] == 0.25
    assert tree["heldout_loss"] is None
    assert finetuned.selection_score == 0.25
    assert finetuned.model_config_tree == tree["network"] == {"num_layers": 2}


def test_fine_tuned_checkpoints_of_older_versions_are_read(tmp_path: Path) -> None:
    tree = json.loads(manifest_json(make_manifest(1, 1)))
    config = {"model": {"pooler": "changed"}, "network": {"num_layers": 3}}
    old = write_tree(tmp_path / "step-00000001", {**tree, "config": config, "heldout_loss": 0.5})
    assert old.selection_score == 0.5
    assert old.model_config_tree == {"num_layers": 3}
    pretrained = write_tree(tmp_path / "step-00000002", {**tree, "config": {"model": {"a": 1}}})
    assert pretrained.model_config_tree == {"a": 1}


def test_a_manifest_of_a_future_format_is_refused(tmp_path: Path) -> None:
    tree = json.loads(manifest_json(make_manifest(1, 1)))
    with pytest.raises(UserError, match="format version 2, this program reads 1"):
        write_tree(tmp_path / "step-00000001", {**tree, "format_version": 2})


def test_checkpoints_are_ordered_by_step_and_not_by_name(tmp_path: Path) -> None:
    save(tmp_path, [7, 99_999_999, 100_000_000], tp_size=1)
    (tmp_path / "step-notes").mkdir()
    names = ["step-notes", "step-00000007", "step-99999999", "step-100000000"]
    assert [path.name for path in list_checkpoints(tmp_path)] == names
    assert newest_step(tmp_path) == 100_000_000
    assert newest_step(tmp_path / "none") == 0
    newest, _ = find_checkpoint(tmp_path)
    assert newest is not None
    assert newest.manifest.step == 100_000_000
    older, problems = find_checkpoint(tmp_path, before_step=100_000_000)
    assert older is not None
    assert older.manifest.step == 99_999_999
    assert not problems
