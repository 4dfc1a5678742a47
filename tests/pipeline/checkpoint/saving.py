"""Small checkpoints of three parameters, saved by forked ranks."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from model.parameters import ParameterSpec, shard_tensor, unpad_local
from pipeline.checkpoint.config import CheckpointConfig
from pipeline.checkpoint.manifest import (
    MANIFEST_NAME,
    TOKENIZER_NAME,
    CheckpointManifest,
    Origin,
    build_manifest,
    manifest_json,
    read_manifest,
    tensor_key,
)
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


def drop_tokenizer(checkpoint: Path) -> None:
    """Makes `checkpoint` one of version 0.1.0, which carries no tokenizer."""
    manifest = read_manifest(checkpoint).model_copy(
        update={"tokenizer": None, "special_tokens": None}
    )
    (checkpoint / TOKENIZER_NAME).unlink()
    (checkpoint / MANIFEST_NAME).write_text(manifest_json(manifest))
