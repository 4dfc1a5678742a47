"""The start in the plan of a pretraining run: what has to fit, before anything is allocated."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from configs.load import ConfigError, UserError
from data_prep.dataset.manifest import Manifest
from model.size import count_parameters
from pipeline.checkpoint.records import num_weights
from pipeline.checkpoint.start_record import StartRecord
from pipeline.run.config import TrainConfig
from pipeline.run.phases import PhaseConfig
from pipeline.start.config import PRETRAINED, ContinueHuggingFace, ContinueRun
from pipeline.start.pretrained import with_tokenizer
from pipeline.start.record import check_moved_start, own_checkpoint, read_record
from pipeline.start.start import Start, read_start
from pipeline.start.vocabulary import check_vocabulary


def plan_start(
    config: TrainConfig, rows: Manifest, tokenizer: Path
) -> tuple[Start | None, StartRecord | None]:
    """(what the run of `config` starts from, its record), after every check that needs no model.

    `rows` are those of the first phase, `tokenizer` is their file. The start is None for a run that
    has checkpoints, which needs the weights no more; it carries no tensors. Raises UserError where
    the start is not there, where its model, vocabulary or optimizer is not that of the run, and
    where it is no longer what the run started from.
    """
    assert isinstance(config.start, ContinueHuggingFace | ContinueRun)
    record = read_record(config.output)
    checkpoint = own_checkpoint(config.output)
    if checkpoint is not None:
        if record is not None:
            check_moved_start(config.start, record, config.output)
        return None, checkpoint.manifest.start
    start = read_start(with_tokenizer(config.start, tokenizer), recorded=record)
    errors = list(start_errors(config, start))
    if errors:
        raise UserError(
            f"start: {start.description} cannot be continued:\n  " + "\n  ".join(errors)
        )
    if config.start.new_tokens is None:
        check_vocabulary(start, rows, tokenizer, str(config.data.path))
    return dataclasses.replace(start, tensors=None), start.record


def start_errors(config: TrainConfig, start: Start) -> Iterator[str]:
    """A line for each reason why the run of `config` cannot continue from the files of `start`."""
    checkpoint = start.checkpoint
    if checkpoint is None:
        return
    manifest = checkpoint.manifest
    for file in manifest.files:
        path = checkpoint.path / file.path
        if not path.is_file() or path.stat().st_size != file.bytes:
            yield f"{path}: missing, or not of {file.bytes:,} bytes"
    # Not counted: task heads. A discriminator has other parts.
    of_model = {n: p for n, p in manifest.parameters.items() if n.startswith(PRETRAINED)}
    wanted, found = count_parameters(start.model, manifest.vocab_size), num_weights(of_model)
    objective = manifest.config.get("objective") or {}
    if wanted != found and objective.get("type") != "replaced_tokens":
        yield f"it holds {found:,} weights, its model has {wanted:,}"
    if isinstance(config.start, ContinueRun) and config.start.moments:
        yield from _moment_errors(config, start)


def _moment_errors(config: TrainConfig, start: Start) -> Iterator[str]:
    assert start.checkpoint is not None
    stored = start.checkpoint.manifest.config
    advice = "or set start.moments: false to take the weights only"
    if "tasks" in stored:
        yield f"start.moments: of a fine-tuning run; {advice[3:]}"
        return
    if start.checkpoint.manifest.averaged is not None:
        yield f"start.moments: an average of checkpoints has no optimizer state; {advice[3:]}"
        return
    optimizer = stored.get("optimizer", {}).get("type", "adamw")
    if optimizer != config.optimizer.type:
        yield (
            f"start.moments: written by optimizer.type {optimizer}, this run has "
            f"{config.optimizer.type}: set optimizer.type to {optimizer}, {advice}"
        )
    if start.model.frozen != config.model.frozen:
        yield (
            "start.moments: frozen weights have no moments, and model.frozen is "
            f"{config.model.frozen.type}, in the start {start.model.frozen.type}: set it to that, "
            f"{advice}"
        )


def check_start_rows(config: TrainConfig, phase: PhaseConfig, row_tokens: int, where: str) -> None:
    """Raises ConfigError if rows of a phase are longer than the positions of the start.

    `where` is the dotted path before the keys of the phase.
    """
    model = phase.model
    if row_tokens <= model.max_row_tokens or config.start.type == "scratch":
        return
    advice = f"set {where}model.max_row_tokens to {row_tokens}"
    if model.positions.type == "learned":
        advice = (
            f"set model.max_row_tokens to {row_tokens} and start.grow to tiling, which repeats the "
            "learned positions"
        )
    raise ConfigError(
        f"rows of {row_tokens} tokens in {phase.data.path} ({where}data.path) are longer than the "
        f"{model.max_row_tokens} positions of the start: {advice}, or pack shorter rows"
    )
