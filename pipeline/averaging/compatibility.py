"""Whether checkpoints hold the same model, so that their weights can be averaged. No torch."""

from collections.abc import Iterator, Sequence
from typing import Any

from configs.differences import differences
from configs.load import UserError
from model.config import architecture_differences
from pipeline.checkpoint.manifest import Checkpoint, CheckpointManifest
from pipeline.checkpoint.stored_model import stored_model

TASK_KEYS = ("type", "labels", "num_choices")
"""Keys of a fine-tuning task that decide what its head computes."""


def check_same_model(checkpoints: Sequence[Checkpoint]) -> None:
    """Raises UserError that names every difference of a checkpoint to the first one.

    Architecture, tokenizer, vocabulary, special tokens, tasks and parameters have to be equal. The
    data, the settings of training and the grid need not.
    """
    first, *others = checkpoints
    lines = [
        f"  {checkpoint.path}: {line}"
        for checkpoint in others
        for line in _differences(first, checkpoint)
    ]
    if lines:
        raise UserError(
            f"these checkpoints cannot be averaged with {first.path}:\n" + "\n".join(lines)
        )


def _differences(first: Checkpoint, other: Checkpoint) -> Iterator[str]:
    before, now = first.manifest, other.manifest
    architecture = architecture_differences(stored_model(first), stored_model(other))
    for found in architecture:
        yield f"model.{found.path} is {found.now!r}, not {found.before!r}"
    if before.tokenizer_sha256 != now.tokenizer_sha256:
        yield "the tokenizer is different"
    if before.vocab_size != now.vocab_size:
        yield f"the vocabulary has {now.vocab_size:,} tokens, not {before.vocab_size:,}"
    if None not in (tokens := (before.special_tokens, now.special_tokens)) and len({*tokens}) > 1:
        yield f"the special tokens are {now.special_tokens}, not {before.special_tokens}"
    yield from _task_differences(before.config, now.config)
    if not architecture:  # else their shapes are a consequence
        yield from _parameter_differences(before, now)


def _task_differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    if ("tasks" in before) != ("tasks" in now):
        yield "it is of " + ("a fine-tuning run" if "tasks" in now else "a pretraining run")
        return
    old, new = (
        {
            name: {key: task.get(key) for key in TASK_KEYS}
            for name, task in config.get("tasks", {}).items()
        }
        for config in (before, now)
    )
    for found in differences(old, new):
        yield f"tasks.{found.path} is {found.now!r}, not {found.before!r}"


def _parameter_differences(before: CheckpointManifest, now: CheckpointManifest) -> Iterator[str]:
    for name in sorted(before.parameters.keys() | now.parameters.keys()):
        old, new = (manifest.parameters.get(name) for manifest in (before, now))
        if old is None or new is None:
            yield f"parameter {name} is only in one of them"
        elif old.shape != new.shape:
            yield f"parameter {name} is {list(new.shape)}, not {list(old.shape)}"
