"""What is saved of a training state, and which checkpoint a run goes on from."""

from dataclasses import dataclass

import torch.distributed as dist

from data_prep.shards import Manifest
from model.parallel import Grid
from pipeline.checkpoint import (
    Checkpoint,
    CheckpointManifest,
    ParameterRecord,
    Segment,
    find_checkpoint,
)
from pipeline.config import TrainConfig
from pipeline.deepspeed_engine import STATE_KEYS, Engine
from pipeline.record import versions
from pipeline.run_folder import checkpoints_folder
from pipeline.tracking import run_id_of


@dataclass(frozen=True)
class Position:
    """How far a run is."""

    step: int
    """Optimizer steps tried."""
    consumed_rows: int
    """The position in the row stream."""
    heldout_loss: float | None
    """Latest held-out loss, nats per masked token."""


def newest_checkpoint(config: TrainConfig, grid: Grid) -> Checkpoint | None:
    """The newest checkpoint of the run that verifies: rank 0 looks, all ranks get its answer."""
    found: list[Checkpoint | None] = [None]
    if grid.rank == 0:
        found[0], problems = find_checkpoint(checkpoints_folder(config))
        for problem in problems:
            print(f"warning: {problem}; it is left where it is and passed over", flush=True)
    dist.broadcast_object_list(found, src=0)
    return found[0]


def describe_checkpoint(
    config: TrainConfig,
    data: Manifest,
    engine: Engine,
    grid: Grid,
    position: Position,
) -> CheckpointManifest:
    """The manifest of the state at `position`, its files still to be listed."""
    return CheckpointManifest(
        step=position.step,
        optimizer_step=engine.optimizer_steps(),
        consumed_rows=position.consumed_rows,
        segments=(Segment(start_row=0, weights=config.data.weights),),
        seed=config.seed,
        tp_size=grid.tp_size,
        dp_size=grid.dp_size,
        zero_stage=config.parallel.zero_stage,
        config=config.model_dump(mode="json"),
        vocab_size=data.vocab_size,
        data_fingerprint=data.fingerprint,
        tokenizer_sha256=data.tokenizer.sha256,
        tracking_run_id=run_id_of(config.output),
        heldout_loss=position.heldout_loss,
        versions=versions(),
        parameters={
            name: ParameterRecord(shape=spec.full_shape, partition_dim=spec.partition_dim)
            for name, spec in engine.specs.items()
        },
        state_keys=STATE_KEYS,
    )
