"""Small checkpoints of three parameters, saved by forked ranks."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from model.parameters import ParameterSpec, shard_tensor
from pipeline.checkpoint.build import Origin, build_manifest
from pipeline.checkpoint.config import CheckpointConfig
from pipeline.checkpoint.fragments import FRAGMENTS_NAME, Fragment
from pipeline.checkpoint.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    TOKENIZER_NAME,
    Checkpoint,
    CheckpointManifest,
    manifest_json,
    part_name,
    read_manifest,
    tensor_key,
)
from pipeline.checkpoint.reader import TensorReader
from pipeline.checkpoint.records import FileRecord
from pipeline.checkpoint.writer import Saver
from pipeline.data.position import Segment
from tests.gloo import run_ranks

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


def make_manifest(step: int, tp_size: int, dp_size: int = 1) -> CheckpointManifest:
    return build_manifest(
        dataclasses.replace(ORIGIN, tp_size=tp_size, dp_size=dp_size),
        SPECS,
        step=step,
        optimizer_step=step,
        consumed_rows=step * 4,
        segments=(Segment(phase=0, start_row=0, weights=None),),
        heldout_loss=HELDOUT_LOSSES.get(step),
    )


def whole_fragments() -> Mapping[str, Fragment]:
    """What the only rank of a run holds."""
    return {name: Fragment(0, {"weight": tensor}) for name, tensor in full_tensors().items()}


def save(
    folder: Path,
    steps: list[int],
    tp_size: int,
    keep: CheckpointConfig = KEEP_ALL,
    dp_size: int = 1,
) -> None:
    run_ranks(_save_on_rank, tp_size * dp_size, folder, steps, (tp_size, dp_size), keep)


def _save_on_rank(
    folder: Path, steps: list[int], grid: tuple[int, int], keep: CheckpointConfig
) -> None:
    rank, (tp_size, dp_size) = torch.distributed.get_rank(), grid
    dp_rank, tp_rank = divmod(rank, tp_size)
    saver = Saver(folder, keep, RankOf(rank, tp_rank, dp_rank))  # type: ignore[arg-type]
    for step in steps:
        held = {}
        for name, full in full_tensors(step).items():
            shard = shard_tensor(SPECS[name], full, tp_rank, tp_size, padded=False)
            if fragment := _fragment_of(name, shard, dp_rank, dp_size):
                held[name] = fragment
        saver.save(make_manifest(step, tp_size, dp_size), _snapshot_of(held))
    saver.finish()


def _fragment_of(name: str, shard: torch.Tensor, dp_rank: int, dp_size: int) -> Fragment | None:
    """The part that a data-parallel rank holds: the norm lies on the last one, as whole parameters
    do under ZeRO 1, all others are divided, not at the ends of rows."""
    if dp_size == 1:
        return Fragment(0, {"weight": shard.contiguous()}) if shard.numel() else None
    flat = shard.flatten()
    start, end = (len(flat) * rank // dp_size for rank in (dp_rank, dp_rank + 1))
    if name == "norm":
        start, end = (0, len(flat)) if dp_rank == dp_size - 1 else (0, 0)
    return Fragment(start, {"weight": flat[start:end].contiguous()}) if start < end else None


def _snapshot_of(held: dict[str, Fragment]) -> Callable[[], dict[str, Fragment]]:
    return lambda: held


def make_whole(checkpoint: Path, tp_size: int) -> None:
    """Rewrites `checkpoint` in the form of version 0.1.0: a file for each tensor-parallel rank."""
    manifest = read_manifest(checkpoint)
    reader = TensorReader(Checkpoint(checkpoint, manifest))
    files = []
    for rank in range(tp_size):
        tensors = {
            tensor_key(key, name): shard_tensor(
                SPECS[name], reader.full(key, name), rank, tp_size, padded=False
            ).contiguous()
            for key in manifest.state_keys
            for name in manifest.parameters
        }
        path = checkpoint / part_name(rank, tp_size)
        save_file(tensors, path)
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        files.append(FileRecord(path=path.name, bytes=len(content), sha256=digest))
    for record in manifest.files:
        (checkpoint / record.path).unlink()
    (checkpoint / FRAGMENTS_NAME).unlink()
    changes = {
        **{"format_version": FORMAT_VERSION, "fragments": None, "sha256": None},
        **{"files": tuple(files), "tp_size": tp_size},
    }
    changed = manifest.model_copy(update=changes)
    (checkpoint / MANIFEST_NAME).write_text(manifest_json(changed))


def drop_tokenizer(checkpoint: Path) -> None:
    """Makes `checkpoint` one of version 0.1.0, which carries no tokenizer."""
    manifest = read_manifest(checkpoint).model_copy(
        update={"tokenizer": None, "special_tokens": None}
    )
    (checkpoint / TOKENIZER_NAME).unlink()
    (checkpoint / MANIFEST_NAME).write_text(manifest_json(manifest))
