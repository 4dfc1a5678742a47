"""What every exported Hugging Face folder contains besides its weights."""

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.load import fingerprint
from data_prep.dataset.tokenizer import FIRST_SPECIAL_TOKENS, MASK_TOKEN
from pipeline.checkpoint.manifest import Checkpoint

PARITY_NAME = "parity.json"
PARITY_TOLERANCE = 1e-4
"""Largest difference of two fp32 logits that is rounding; logits are of the order of 10."""


def load_exported(folder: Path) -> tuple[Any, Any]:
    """(tokenizer, masked-language model in eval mode) of an exported folder, by transformers."""
    with _quiet_transformers():
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        return tokenizer, load_auto_model(folder, "AutoModelForMaskedLM")


def load_auto_model(folder: Path, class_name: str) -> Any:
    """The model in `folder` in eval mode, by one of transformers' AutoModelFor... classes."""
    with _quiet_transformers():
        import transformers

        return getattr(transformers, class_name).from_pretrained(folder).eval()


def write_tokenizer(tokenizer: Path, max_row_tokens: int, folder: Path) -> None:
    """Writes what AutoTokenizer needs to `folder`."""
    shutil.copy(tokenizer, folder / "tokenizer.json")
    bos, pad, eos, unk = FIRST_SPECIAL_TOKENS
    tree = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "cls_token": bos,
        "pad_token": pad,
        "eos_token": eos,
        "sep_token": eos,
        "unk_token": unk,
        "mask_token": MASK_TOKEN,
        "model_max_length": max_row_tokens,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tree, indent=2) + "\n")


def checkpoint_source(checkpoint: Checkpoint) -> dict[str, Any]:
    """What an export was made from."""
    files = [record.sha256 for record in checkpoint.manifest.files]
    return {"step": checkpoint.manifest.step, "checkpoint_fingerprint": fingerprint(files)}


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without its progress bars and advice."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    yield
