"""What a fine-tuning run that has checkpoints started from, without the folder of the base model.

The checkpoints hold the network and the tokenizer, and ``start.json`` in the run's folder says
which weights the run started from. So the base model may be moved or deleted once there is a
checkpoint.
"""

import logging
from pathlib import Path

from model.config import ModelConfig
from pipeline.checkpoint.start_record import StartRecord
from pipeline.checkpoint.tokenizer import special_tokens_of, tokenizer_of
from pipeline.finetuning.config import FinetuneConfig
from pipeline.start.record import check_moved_start, own_checkpoint, read_record, write_record
from pipeline.start.start import Start, read_start

logger = logging.getLogger(__name__)


def start_of_run(config: FinetuneConfig, check_moved: bool) -> Start:
    """What the run of `config` starts from, or started from if it has a checkpoint.

    `check_moved`: whether a start at a new path has to be that of the checkpoint.

    Raises the errors of `read_start`, and UserError if ``start.path`` now names different weights.
    """
    checkpoint = own_checkpoint(config.output)
    if checkpoint is None:
        return read_start(config.start)
    manifest, record = checkpoint.manifest, read_record(config.output)
    if record is None:
        logger.info("%s: does not say what it started from (version 0.1.0)", config.output)
        if config.start.path.exists():
            return read_start(config.start)
        path = str(config.start.path)
        record = StartRecord(path=path, description=path, fingerprint="unknown")
    elif check_moved:
        check_moved_start(config.start, record, config.output)
    tokenizer = tokenizer_of(checkpoint, lambda: _tokenizer_of_base(config))
    return Start(
        ModelConfig.from_stored(manifest.model_config_tree).for_loaded_weights(),
        manifest.vocab_size,
        tokenizer,
        manifest.tokenizer_sha256,
        special_tokens_of(checkpoint, tokenizer),
        record=record,
    )


def record_start(config: FinetuneConfig, start: Start) -> None:
    """Writes down what the run starts from, for its later starts; rank 0 calls it.

    Not for a run of version 0.1.0 that has checkpoints: its base may have been trained on since.
    """
    if start.has_weights and own_checkpoint(config.output) is None:
        write_record(config.output, start.record)


def _tokenizer_of_base(config: FinetuneConfig) -> Path:
    """For checkpoints of version 0.1.0, which carry no tokenizer."""
    return config.start.tokenizer or read_start(config.start).tokenizer
