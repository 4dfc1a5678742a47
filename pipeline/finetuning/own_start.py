"""What a fine-tuning run that has checkpoints started from, without the folder of the base model.

The checkpoints hold the network and the tokenizer, and ``start.json`` in the run's folder says
which weights the run started from. So the base model may be moved or deleted once there is a
checkpoint.
"""

import logging
from pathlib import Path

from pydantic import ValidationError

from configs.load import Config, UserError
from data_prep.dataset.atomic import write_atomic
from data_prep.dataset.files import first_error, read_json
from model.config import ModelConfig
from pipeline.checkpoint.manifest import Checkpoint, list_checkpoints, read_manifest
from pipeline.checkpoint.tokenizer import special_tokens_of, tokenizer_of
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.start import Start, read_start, weights_in
from pipeline.run.run_folder import checkpoints_folder

START_NAME = "start.json"

logger = logging.getLogger(__name__)


class StartRecord(Config):
    """The weights that a run started from."""

    path: str
    """``start.path`` of its first start."""
    description: str
    """What they are."""
    fingerprint: str
    """Their hash."""


def start_of_run(config: FinetuneConfig, check_hashes: bool) -> Start:
    """What the run of `config` starts from, or started from if it has a checkpoint.

    Raises the errors of `read_start`, and UserError if ``start.path`` now names different weights.
    """
    checkpoint = _own_checkpoint(checkpoints_folder(config))
    if checkpoint is None:
        return read_start(config.start, check_hashes)
    manifest, record = checkpoint.manifest, _read_record(config)
    if record is None and config.start.path.exists():
        return read_start(config.start, check_hashes)
    if record is not None and check_hashes:
        _check_moved_start(config, record)
    tokenizer = tokenizer_of(checkpoint, lambda: _tokenizer_of_base(config))
    return Start(
        ModelConfig.from_stored(manifest.model_config_tree).for_loaded_weights(),
        manifest.vocab_size,
        tokenizer,
        manifest.tokenizer_sha256,
        special_tokens_of(checkpoint, tokenizer),
        description=record.description if record else f"{config.start.path}",
        fingerprint=record.fingerprint if record else "unknown",
    )


def record_start(config: FinetuneConfig, start: Start) -> None:
    """Writes down what the run starts from, for its later starts; rank 0 calls it.

    Not for a run of version 0.1.0 that has checkpoints: its base may have been trained on since.
    """
    if start.has_weights and _own_checkpoint(checkpoints_folder(config)) is None:
        record = StartRecord(
            path=str(config.start.path),
            description=start.description,
            fingerprint=start.fingerprint,
        )
        write_atomic(config.output / START_NAME, record.model_dump_json(indent=1) + "\n")


def _own_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint of the run whose manifest is readable; its tensors are not checked."""
    for path in reversed(list_checkpoints(folder)):
        try:
            return Checkpoint(path, read_manifest(path))
        except UserError:
            continue  # a damaged one, which the start of a run reports
    return None


def _read_record(config: FinetuneConfig) -> StartRecord | None:
    path = config.output / START_NAME
    try:
        return StartRecord.model_validate(read_json(path))
    except FileNotFoundError:
        logger.info("%s: does not say what it started from (version 0.1.0)", config.output)
        return None
    except ValidationError as error:
        raise UserError(f"{path}: damaged: {first_error(error)}") from None


def _check_moved_start(config: FinetuneConfig, record: StartRecord) -> None:
    """A base at its first path may have been trained on; at a new path it must be the same."""
    path = config.start.path
    if str(path) == record.path or not path.exists():
        return
    if record.fingerprint not in weights_in(config.start):
        raise UserError(
            f"start.path: {path} does not hold the weights that {config.output} started from "
            f"({record.description}): restore start.path, or choose a new output folder"
        )


def _tokenizer_of_base(config: FinetuneConfig) -> Path:
    """For checkpoints of version 0.1.0, which carry no tokenizer."""
    return config.start.tokenizer or read_start(config.start, check_hashes=False).tokenizer
