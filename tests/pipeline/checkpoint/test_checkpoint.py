"""Checkpoints: any damage is found, a disk that fills up breaks none, any grid reads them."""

import errno
import json
import random
import shutil
from pathlib import Path

import pytest
import torch

from configs.load import UserError
from model.parameters import ParameterSpec, shard_tensor, unpad_local
from pipeline.checkpoint import writer as checkpoint_writer
from pipeline.checkpoint.manifest import (
    MANIFEST_NAME,
    CheckpointManifest,
    ParameterRecord,
    find_checkpoint,
    tensor_key,
    verify,
)
from pipeline.checkpoint.reader import TensorReader, check_checkpoint
from pipeline.checkpoint.writer import Saver
from pipeline.data.position import Segment
from pipeline.run.config import CheckpointConfig
from tests.gloo import run_ranks

VOCAB_SIZE, PADDED, HIDDEN = 13, 16, 6
HELDOUT_LOSSES = {2: 5.0, 3: 1.0, 7: 4.0}
KEEP_ALL = CheckpointConfig(keep_last=10)
SPECS = {
    "word": ParameterSpec((VOCAB_SIZE, HIDDEN), 0, padded_size=PADDED),
    "down": ParameterSpec((HIDDEN, 8), 1),
    "norm": ParameterSpec((HIDDEN,), None),
}


class RankOf:
    """As much of a grid as the writer looks at."""

    def __init__(self, rank: int, tp_rank: int, dp_rank: int) -> None:
        self.rank, self.tp_rank, self.dp_rank = rank, tp_rank, dp_rank


def full_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(spec.full_shape, generator=generator) for name, spec in SPECS.items()}


def make_manifest(step: int, tp_size: int) -> CheckpointManifest:
    return CheckpointManifest(
        step=step,
        optimizer_step=step,
        consumed_rows=step * 4,
        segments=(Segment(phase=0, start_row=0, weights=None),),
        seed=1,
        tp_size=tp_size,
        dp_size=1,
        zero_stage=1,
        config={},
        vocab_size=VOCAB_SIZE,
        data_fingerprint="d",
        tokenizer_sha256="t",
        heldout_loss=HELDOUT_LOSSES.get(step),
        versions={},
        parameters={
            name: ParameterRecord(shape=spec.full_shape, partition_dim=spec.partition_dim)
            for name, spec in SPECS.items()
        },
        state_keys=("weight",),
    )


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
        saver.save(make_manifest(step, tp_size), lambda tensors=tensors: tensors)
    saver.finish()


@pytest.mark.parametrize("saved_at", [1, 2, 4])
@pytest.mark.parametrize("read_at", [1, 2, 4])
def test_any_grid_reads_what_any_grid_saved(tmp_path, saved_at, read_at):
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


def test_only_the_newest_are_kept_and_nothing_unfinished_stays(tmp_path):
    save(tmp_path, [1, 2, 3, 4], tp_size=2, keep=CheckpointConfig(keep_last=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_every_rule_keeps_its_checkpoints(tmp_path):
    rules = CheckpointConfig(keep_last=1, keep_every_steps=4, keep_best=1)
    save(tmp_path, list(range(1, 10)), tp_size=1, keep=rules)
    kept = sorted(int(path.name.removeprefix("step-")) for path in tmp_path.iterdir())
    assert kept == [3, 4, 8, 9]  # the best, multiples of four, the newest


def test_every_flipped_byte_and_truncation_is_found(tmp_path):
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


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_taken(tmp_path):
    save(tmp_path, [1, 2], tp_size=1)
    part = next((tmp_path / "step-00000002").glob("*.safetensors"))
    part.write_bytes(part.read_bytes()[:-1])
    checkpoint, problems = find_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.manifest.step == 1
    assert len(problems) == 1
    assert str(part) in problems[0]
    assert part.exists()


def test_a_folder_without_manifest_is_no_checkpoint(tmp_path):
    save(tmp_path, [1], tp_size=1)
    (tmp_path / "step-00000001" / MANIFEST_NAME).unlink()
    checkpoint, problems = find_checkpoint(tmp_path)
    assert checkpoint is None
    assert "not a checkpoint" in problems[0]


def test_a_full_disk_is_reported_and_the_next_save_works(tmp_path, monkeypatch):
    real_save_file = checkpoint_writer.save_file

    def fail_once(tensors, path):
        monkeypatch.setattr(checkpoint_writer, "save_file", real_save_file)
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    def on_rank():
        saver = Saver(tmp_path, KEEP_ALL, RankOf(0, 0, 0))  # type: ignore[arg-type]
        tensors = {tensor_key("weight", n): t for n, t in full_tensors().items()}
        said: list[str] = []
        saver.save(make_manifest(1, 1), lambda tensors=tensors: tensors)
        saver._wait()
        monkeypatch.setattr(checkpoint_writer, "save_file", fail_once)
        saver.save(make_manifest(2, 1), lambda tensors=tensors: tensors)
        saver._wait()
        saver.report_errors(said.append)
        saver.save(make_manifest(3, 1), lambda tensors=tensors: tensors)
        saver.finish()
        saver.report_errors(said.append)
        return said

    (said,) = run_ranks(on_rank, 1)
    assert len(said) == 1
    assert "step 2 was not saved" in said[0]
    assert "No space left" in said[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]
    for path in tmp_path.iterdir():
        verify(path)


def test_the_last_save_must_not_fail(tmp_path, monkeypatch):
    def fail(tensors, path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    def on_rank():
        saver = Saver(tmp_path, KEEP_ALL, RankOf(0, 0, 0))  # type: ignore[arg-type]
        monkeypatch.setattr(checkpoint_writer, "save_file", fail)
        saver.save(make_manifest(1, 1), lambda: {})
        with pytest.raises(UserError, match="step 1 was not saved"):
            saver.finish()

    run_ranks(on_rank, 1)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_model_is_refused_difference_by_difference():
    specs = {
        "word": ParameterSpec((VOCAB_SIZE + 1, HIDDEN), 0),
        "norm": SPECS["norm"],
        "extra": ParameterSpec((3,), None),
    }
    with pytest.raises(UserError) as caught:
        check_checkpoint(make_manifest(4, 1), specs, "another")
    message = str(caught.value)
    assert "no parameter extra" in message
    assert "parameter down, which this model does not have" in message
    assert f"word has the shape [{VOCAB_SIZE}, {HIDDEN}], this model wants" in message
    assert "another tokenizer" in message


def test_the_manifest_is_plain_json(tmp_path):
    save(tmp_path, [1], tp_size=2)
    tree = json.loads((tmp_path / "step-00000001" / MANIFEST_NAME).read_text())
    assert tree["consumed_rows"] == 4
    assert [record["path"] for record in tree["files"]] == [
        "state-tp000-of-002.safetensors",
        "state-tp001-of-002.safetensors",
    ]
