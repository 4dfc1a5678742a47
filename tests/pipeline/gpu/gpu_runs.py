"""Runs on a GPU or the CPU, and how far they may differ.

Every rank is forked, so that this process never starts CUDA: see `pipeline.launch.local_ranks`.
"""

import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from pipeline.checkpoint.manifest import Checkpoint, checkpoint_folder, find_checkpoint
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import DONE_NAME, checkpoints_folder, is_done
from pipeline.tracking.event_log import LOG_NAME, read_events
from tests.gloo import run_ranks
from tests.pipeline.training_run import make_config, metrics, pretrain

NEEDS_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
MAX_ROW_TOKENS = 512
# Masks of dropout are drawn by the device: without them it computes what the CPU does.
NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
SIZES = {
    "num_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "max_row_tokens": MAX_ROW_TOKENS,
}
WINDOW = {"attention_pattern": {"type": "window", "neighbours": 40}}
# Relative. fp32 rounds at 6e-8 and bf16 at 2e-3, of which means over hundreds of masked tokens keep
# little. On an H200 the largest differences over 20 steps were 1e-7 of losses and norms in fp32; in
# bf16 7e-5 of losses and 2e-3 of norms.
TOLERANCES = {
    "fp32": {"loss": 2e-6, "gradient_norm": 2e-6, "heldout_loss": 2e-6},
    "bf16": {"loss": 5e-4, "gradient_norm": 1e-2, "heldout_loss": 5e-4},
}


def run_on(
    device: Literal["cpu", "cuda"],
    rows: Path,
    folder: Path,
    model: dict[str, Any] | None = None,
    **settings: Any,
) -> TrainConfig:
    """A finished run on `device`, in `folder`."""
    config = make_config(rows, folder, model={**SIZES, **(model or {})}, **settings)
    run_ranks(pretrain, 1, config, device=device)
    assert is_done(config)
    assert used_gpu(config) == (device == "cuda")
    return config


def used_gpu(config: TrainConfig) -> bool:
    """Whether a step of the run recorded memory on a GPU."""
    events = [event for event, _ in read_events(config.output / LOG_NAME)]
    return any("device_memory_gb" in event.get("values", {}) for event in events)


def assert_agree(actual: TrainConfig, expected: TrainConfig, precision: str = "fp32") -> None:
    """Losses, gradient norms and the last held-out loss of two runs."""
    for name, tolerance in TOLERANCES[precision].items():
        if name == "heldout_loss":
            first, second = last_heldout_loss(expected), last_heldout_loss(actual)
        else:
            first, second = metrics(expected, name), metrics(actual, name)
        assert second == pytest.approx(first, rel=tolerance), name
        print(name, "differs by", max_difference(first, second))


def max_difference(first: list[float], second: list[float]) -> float:
    """The largest relative difference of two lists of numbers."""
    return max(abs(a - b) / abs(a) for a, b in zip(first, second, strict=True))


def newest(config: TrainConfig) -> Checkpoint:
    checkpoint, problems = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None, problems
    return checkpoint


def last_heldout_loss(config: TrainConfig) -> list[float]:
    loss = newest(config).manifest.heldout_loss
    assert loss is not None
    return [loss]


def forget_after(config: TrainConfig, folder: Path, step: int) -> TrainConfig:
    """A copy of a run in `folder`, as if it had been killed right after saving `step`."""
    shutil.copytree(config.output, folder)
    (folder / DONE_NAME).unlink()
    copy = config.model_copy(update={"output": folder})
    shutil.rmtree(checkpoint_folder(checkpoints_folder(copy), newest(config).manifest.step))
    assert newest(copy).manifest.step == step
    return copy
