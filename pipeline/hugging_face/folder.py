"""An exported Hugging Face folder: its files, its parity record, and loading it by transformers.

The one door to transformers, which is imported late. Imports no torch.
"""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from configs.load import UserError, fingerprint
from data_prep.dataset.tokenizer import FIRST_SPECIAL_TOKENS, MASK_TOKEN
from pipeline.checkpoint.manifest import Checkpoint

EXPORT_NAME = "hf"
"""Folder of the export in the folder of its run; fine-tuning: one folder a task inside of it."""
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
PARITY_NAME = "parity.json"
PARITY_TOLERANCE = 1e-4
"""Largest difference of two fp32 outputs that is rounding; logits are of the order of 10."""

Quantity = Literal["logit", "score"]
"""The output that is compared: logits of the vocabulary head, or scores of a task head."""


@dataclass(frozen=True)
class ExportSource:
    """The checkpoint that an export is made from."""

    step: int
    checkpoint_fingerprint: str | None
    """Hash of the hashes of its files."""

    @staticmethod
    def of(checkpoint: Checkpoint) -> "ExportSource":
        """The source of an export of `checkpoint`."""
        files = [record.sha256 for record in checkpoint.manifest.files]
        return ExportSource(checkpoint.manifest.step, fingerprint(files))


@dataclass(frozen=True)
class Parity:
    """The record of the comparison of an export with the trained model."""

    source: ExportSource
    largest_difference: float
    """Largest absolute difference of an output, both models in fp32."""
    quantity: Quantity

    def to_json(self) -> str:
        """The content of the parity file."""
        tree = {
            "step": self.source.step,
            "checkpoint_fingerprint": self.source.checkpoint_fingerprint,
            f"largest_{self.quantity}_difference": self.largest_difference,
        }
        return json.dumps(tree, indent=1) + "\n"


def read_parity(folder: Path) -> Parity | None:
    """The parity record of the export in `folder`, None if there is none."""
    path = folder / PARITY_NAME
    if not path.exists():
        return None
    tree: dict[str, Any] = json.loads(path.read_bytes())
    quantity: Quantity = "logit" if "largest_logit_difference" in tree else "score"
    source = ExportSource(tree["step"], tree.get("checkpoint_fingerprint"))
    return Parity(source, tree[f"largest_{quantity}_difference"], quantity)


def require_parity(folder: Path) -> Parity:
    """The parity record of the export in `folder`.

    Raises UserError where there is none, where the comparison failed, and where the weights were
    changed after it.
    """
    parity = read_parity(folder)
    path = folder / PARITY_NAME
    if parity is None:
        raise UserError(
            f"{path}: no such file: the model's parity was never checked; run 'python -m "
            "pipeline.export' first"
        )
    if not parity.largest_difference <= PARITY_TOLERANCE:
        raise UserError(
            f"{folder}: not registered: its {parity.quantity}s differ by "
            f"{parity.largest_difference:.1e} from the trained model's, more than "
            f"{PARITY_TOLERANCE:.0e}"
        )
    if (folder / WEIGHTS_NAME).stat().st_mtime_ns > path.stat().st_mtime_ns:
        raise UserError(
            f"{folder / WEIGHTS_NAME}: changed since its parity was checked; run 'python -m "
            "pipeline.export' again"
        )
    return parity


def load_exported(folder: Path) -> tuple[Any, Any]:
    """(tokenizer, masked-language model in eval mode) of an exported folder, by transformers."""
    _quiet_transformers()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer, load_auto_model(folder, "AutoModelForMaskedLM")


def load_auto_model(folder: Path, class_name: str) -> Any:
    """The model in `folder` in eval mode, by one of transformers' AutoModelFor... classes."""
    _quiet_transformers()
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


def _quiet_transformers() -> None:
    """Turns off the progress bars and the advice of transformers in this process."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
