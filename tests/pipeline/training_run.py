"""Small pretraining runs on forked ranks, on synthetic rows with something to learn.

DeepSpeed is imported once, in the parent, with the modules that it would import at the start of
each run, so that a forked rank starts at once.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deepspeed
import deepspeed.module_inject.auto_ep_layer
import deepspeed.runtime.zero.muon.muon_optimizer
import numpy as np
import torch
import torch.distributed as dist
from tokenizers import Tokenizer

from configs import log
from configs.load import validate
from pipeline.checkpoint.manifest import find_checkpoint, tensor_key
from pipeline.checkpoint.reader import TensorReader
from pipeline.engine.profiler import ProfiledSteps
from pipeline.launch.environment import Launch
from pipeline.pretraining.loop import train
from pipeline.run import run_folder
from pipeline.run.config import RunConfig, TrainConfig
from pipeline.run.plan import plan_run
from pipeline.tracking.event_log import LOG_NAME, read_events
from tests.synthetic_rows import FIRST_ID, Rows, SyntheticSource, write_data_set

COMPATIBLE_OPS = deepspeed.ops.__compatible_ops__
"""Found with a C compiler at its first use: here, and not again in each rank."""
ROW_TOKENS = 32
VOCAB_SIZE = 131
NUM_TOPICS = 8
BLOCK_ROWS = 64
SMALL_MODEL = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "max_row_tokens": ROW_TOKENS,
}


def make_rows(
    folder: Path,
    rows: int = 512,
    seed: int = 0,
    tokenizer: Tokenizer | None = None,
    row_tokens: int = ROW_TOKENS,
    vocab_size: int = VOCAB_SIZE,
    piece_tokens: int | None = None,
) -> None:
    """A data set of two sources; a row repeats four ids, so masked ones can be predicted.

    `piece_tokens`: there is a <s> at every so many tokens; None: nowhere.
    """
    generator = np.random.default_rng(seed)

    def blocks(count: int) -> Iterator[Rows]:
        ids = generator.integers(FIRST_ID, FIRST_ID + 4, size=(count, row_tokens), dtype=np.uint16)
        ids += 4 * generator.integers(0, NUM_TOPICS, size=(count, 1), dtype=np.uint16)
        if piece_tokens is not None:
            ids[:, ::piece_tokens] = 0
        for start in range(0, count, BLOCK_ROWS):
            yield ids[start : start + BLOCK_ROWS]

    write_data_set(
        folder,
        (
            SyntheticSource("train", "a", blocks(rows)),
            SyntheticSource("train", "b", blocks(rows // 4 + 3)),
            SyntheticSource("heldout", "a", blocks(21)),
            SyntheticSource("heldout", "b", blocks(8)),
        ),
        row_tokens=row_tokens,
        vocab_size=tokenizer.get_vocab_size() if tokenizer else vocab_size,
        block_rows=BLOCK_ROWS,
        tokenizer=tokenizer.to_str() if tokenizer else "{}",
    )


def make_config(
    rows: Path,
    output: Path,
    workers: int = 0,
    weights: dict[str, float] | None = None,
    **changes: Any,
) -> TrainConfig:
    """A tiny run of 20 steps; `changes` replace top-level keys of its config."""
    tree: dict[str, Any] = {
        "name": "test",
        "output": str(output),
        "seed": 7,
        "total_rows": 20 * 16,
        "precision": "fp32",
        "data": {"path": str(rows), "workers": workers, "weights": weights},
        "model": SMALL_MODEL,
        "objective": {"type": "mlm"},
        "batch": {"global_rows": 16, "micro_rows": 4},
        "optimizer": {"type": "adamw", "lr": 1e-3},
        "schedule": {"type": "linear", "warmup_rows": 64},
        "parallel": {"tensor": 1, "zero_stage": 1},
        "evaluation": {"every_steps": 10, "rows_per_source": 12},
        "checkpoint": {"every_steps": 100},
        "tracking": {"enabled": False},
        "export": "none",
    }
    return validate({**tree, **changes}, TrainConfig, origin="test")


def pretrain(config: TrainConfig, profile: ProfiledSteps | None = None) -> None:
    """What a rank does in a launch, inside the world that `gloo.run_ranks` made."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    log.configure(rank)
    plan = plan_run(config, world_size)
    if rank == 0:
        run_folder.claim(config, plan.data_fingerprint)
    dist.barrier()
    train(plan, Launch(rank, rank, world_size, world_size), profile)


def final_state(config: RunConfig) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint, assembled: weights and moments."""
    checkpoint, problems = find_checkpoint(run_folder.checkpoints_folder(config))
    assert checkpoint is not None, problems
    reader = TensorReader(checkpoint)
    return {
        tensor_key(key, name): reader.full(key, name)
        for key in checkpoint.manifest.state_keys
        for name in checkpoint.manifest.parameters
        if reader.has(key, name)
    }


def metrics(config: RunConfig, name: str) -> list[float]:
    """The recorded values of one metric, in the order of the steps, that of a start left out."""
    events = [event for event, _ in read_events(config.output / LOG_NAME)]
    steps = [event for event in events if event["kind"] == "metrics" and event["step"]]
    assert [event["step"] for event in steps] == list(range(1, len(steps) + 1))
    return [event["values"][name] for event in steps]


def assert_same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """Fails naming every tensor that is not equal to the last bit."""
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different, f"differ: {different}"
