"""The tokenizer that a checkpoint carries, so that nothing else is needed to use its model.

Imports no torch. Checkpoints of version 0.1.0 carry none; theirs is found through the config.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from configs.load import UserError
from data_prep.dataset.manifest import SpecialTokens, file_sha256
from data_prep.dataset.special_tokens import find_special_tokens
from data_prep.dataset.tokenizer import load_tokenizer
from pipeline.checkpoint.manifest import Checkpoint

logger = logging.getLogger(__name__)


def tokenizer_of(checkpoint: Checkpoint, elsewhere: Callable[[], Path]) -> Path:
    """The file of the tokenizer that `checkpoint` was trained with; its hash is checked.

    `elsewhere` finds the file for a checkpoint that carries none. Raises UserError for a tokenizer
    that is not the one of the manifest.
    """
    record = checkpoint.manifest.tokenizer
    if record is None:
        path = elsewhere()
        logger.info("%s: carries no tokenizer; %s is used", checkpoint.path, path)
    else:
        path = checkpoint.path / record.path
    check_tokenizer(path, checkpoint.manifest.tokenizer_sha256, str(checkpoint.path))
    return path


def check_tokenizer(path: Path, sha256: str, owner: str) -> None:
    """Raises UserError if the file at `path` is missing or has a different hash.

    `owner` names what was made with the tokenizer of that hash.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such tokenizer file; {owner} needs it")
    if file_sha256(path) != sha256:
        raise UserError(f"{path}: not the tokenizer that {owner} was made with: its sha256 differs")


def special_tokens_of(checkpoint: Checkpoint, tokenizer: Path) -> SpecialTokens:
    """The ids of the special tokens of a checkpoint's model, whose tokenizer is `tokenizer`."""
    if checkpoint.manifest.special_tokens is not None:
        return checkpoint.manifest.special_tokens
    return find_special_tokens(load_tokenizer(tokenizer), tokenizer)
