"""An exported Hugging Face folder: its files, its parity record, and loading it by transformers.

The one door to transformers, which is imported late. Imports no torch.
"""

import json
import logging
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from configs.load import UserError, fingerprint
from data_prep.dataset.atomic import write_atomic
from data_prep.dataset.manifest import SpecialTokens, file_sha256
from data_prep.dataset.tokenizer import load_tokenizer
from model.config import ModelConfig
from pipeline.checkpoint.manifest import Checkpoint
from pipeline.hugging_face.vocabulary_files import vocabulary_files

EXPORT_NAME = "hf"
"""Folder of the export in the folder of its run; fine-tuning: one folder a task inside of it."""
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
PARITY_NAME = "parity.json"
CARD_NAME = "README.md"
NOTES_SUFFIX = ".md"
"""Of files that may be added to an export, or changed: model cards."""
EXPORT = "run 'python -m pipeline.export'"
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
    files: dict[str, str]
    """The sha256 of each file of the folder when it was compared, by path inside of it."""
    others: Mapping[str, float] = field(default_factory=dict)
    """Largest differences of what else the folder computes (embeddings, ONNX), by quantity."""

    def to_json(self) -> str:
        """The content of the parity file."""
        tree = {
            "step": self.source.step,
            "checkpoint_fingerprint": self.source.checkpoint_fingerprint,
            f"largest_{self.quantity}_difference": self.largest_difference,
            **({"other_differences": dict(self.others)} if self.others else {}),
            "files": self.files,
        }
        return json.dumps(tree, indent=1) + "\n"


def read_parity(folder: Path) -> Parity:
    """The parity record of the export in `folder`.

    Raises UserError where there is none, where it cannot be read, and where the comparison failed.
    """
    path = folder / PARITY_NAME
    if not path.is_file():
        raise UserError(f"{path}: no such file: the model's parity was never checked; {EXPORT}")
    try:
        tree: dict[str, Any] = json.loads(path.read_bytes())
        quantity: Quantity = "logit" if "largest_logit_difference" in tree else "score"
        difference = float(tree[f"largest_{quantity}_difference"])
        source = ExportSource(tree["step"], tree.get("checkpoint_fingerprint"))
        files = dict(tree.get("files", {}))
        others = {str(k): float(v) for k, v in tree.get("other_differences", {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read: {error!r}; {EXPORT} again") from None
    for what, found in {quantity: difference, **others}.items():
        if not found <= PARITY_TOLERANCE:
            raise UserError(
                f"{folder}: its {what}s differ by {found:.1e} from the trained model's, more than "
                f"{PARITY_TOLERANCE:.0e}"
            )
    return Parity(source, difference, quantity, files, others)


def check_export(folder: Path, checkpoint: Checkpoint) -> Parity:
    """The parity record of the export of `checkpoint` in `folder`; every file is hashed.

    Raises UserError for an export whose parity is not proven, of a different checkpoint, and where
    a file was changed, added or removed after the comparison.
    """
    parity = read_parity(folder)
    source = ExportSource.of(checkpoint)
    if parity.source != source:
        of_step = f"step {parity.source.step}"
        if parity.source.step == source.step:
            of_step += " of different weights"
        raise UserError(
            f"{folder}: made from {of_step}, not from {checkpoint.path}; {EXPORT} again"
        )
    if not parity.files:
        raise UserError(f"{folder / PARITY_NAME}: names no files; {EXPORT} again")
    found = _file_hashes(folder)
    names = sorted(parity.files.keys() | found.keys())
    if changed := [name for name in names if parity.files.get(name) != found.get(name)]:
        raise UserError(
            f"{folder}: changed since its parity was checked: {', '.join(changed)}; {EXPORT} again"
        )
    return parity


def is_exported(folder: Path, checkpoint: Checkpoint, with_files: Collection[str] = ()) -> bool:
    """Whether `folder` holds the export of `checkpoint`, compared and as it was written.

    `with_files`: files that it must have, by path inside of it.
    """
    try:
        parity = check_export(folder, checkpoint)
    except UserError:
        return False
    return (folder / CARD_NAME).is_file() and parity.files.keys() >= set(with_files)


def foreign_files(folder: Path) -> list[str]:
    """The files in `folder` that its export did not write, notes left out, by path inside of it.

    Of a folder without a readable parity record with the names of its files: none.
    """
    try:
        files = json.loads((folder / PARITY_NAME).read_bytes())["files"].keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return [name for name in _file_names(folder) if name not in files]


def write_parity(
    folder: Path,
    source: ExportSource,
    difference: float,
    quantity: Quantity,
    others: Mapping[str, float] | None = None,
) -> Parity:
    """Writes the parity record of the files that `folder` holds now."""
    parity = Parity(source, difference, quantity, _file_hashes(folder), others or {})
    write_atomic(folder / PARITY_NAME, parity.to_json())
    return parity


def _file_hashes(folder: Path) -> dict[str, str]:
    """By path; what is no regular file has no hash."""
    return {
        name: file_sha256(path) if path.is_file() and not path.is_symlink() else "no file"
        for name, path in _file_names(folder).items()
    }


def _file_names(folder: Path) -> dict[str, Path]:
    """The files of an export by their path inside of it, without the parity record and notes."""
    return {
        str(path.relative_to(folder)): path
        for path in sorted(folder.rglob("*"))
        if path.name != PARITY_NAME and path.suffix != NOTES_SUFFIX and not _is_folder(path)
    }


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and any(path.iterdir())


def load_exported(folder: Path) -> tuple[Any, Any]:
    """(tokenizer, masked-language model in eval mode) of an exported folder, by transformers.

    Raises UserError for a folder that holds no such model.
    """
    if not (folder / CONFIG_NAME).is_file():
        tasks = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG_NAME}"))
        holds = f"it holds the exported tasks {', '.join(tasks)}" if tasks else f"{EXPORT} first"
        raise UserError(f"{folder}: no model with a masked-language-model head there; {holds}")
    model = load_auto_model(folder, "AutoModelForMaskedLM")
    return load_auto_tokenizer(folder), model


def load_auto_tokenizer(folder: Path) -> Any:
    """The tokenizer of a Hugging Face folder, by transformers; UserError where it has none."""
    _quiet_transformers()
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except (ValueError, OSError) as error:
        raise UserError(f"{folder}: its tokenizer cannot be loaded: {error}") from None


def transformers_name(name: str) -> Any:
    """A class or function of transformers."""
    _quiet_transformers()
    import transformers

    return getattr(transformers, name)


def load_auto_model(folder: Path, class_name: str) -> Any:
    """The model in `folder` in eval mode, by one of transformers' AutoModelFor... classes.

    Raises UserError where the folder's model is none of that class, or where a weight is missing,
    which transformers would draw at random.
    """
    _quiet_transformers()
    import transformers

    auto = getattr(transformers, class_name)
    try:
        model, loading = auto.from_pretrained(folder, output_loading_info=True)
    except (ValueError, OSError) as error:
        raise UserError(f"{folder}: cannot be loaded by {class_name}: {error}") from None
    if missing := sorted(loading["missing_keys"]):
        raise UserError(
            f"{folder}: no model for {class_name}: it is a "
            f"{', '.join(model.config.architectures or ['model of no known class'])} without the "
            f"weights {', '.join(missing[:3])}{', ...' * (len(missing) > 3)}"
        )
    return model.eval()


@dataclass(frozen=True)
class ExportedTokenizer:
    """The tokenizer of an export."""

    file: Path
    """Its tokenizer.json."""
    special: SpecialTokens
    max_row_tokens: int
    """The longest row of the model."""
    has_segments: bool
    """Whether the model tells two texts apart by segment ids (token types)."""

    @classmethod
    def of(cls, file: Path, special: SpecialTokens, model: ModelConfig) -> "ExportedTokenizer":
        """The tokenizer `file` for `model`."""
        return cls(file, special, model.max_row_tokens, model.type_vocab_size > 1)

    def write(self, folder: Path) -> None:
        """Writes what AutoTokenizer needs to `folder`, and the vocabulary as text files."""
        shutil.copyfile(self.file, folder / "tokenizer.json")  # not its mode
        tokenizer, special = load_tokenizer(self.file), self.special
        ids = {
            "bos_token": special.bos,
            "cls_token": special.bos,
            "pad_token": special.pad,
            "eos_token": special.eos,
            "sep_token": special.eos,
            "unk_token": special.unk,
            "mask_token": special.mask,
        }
        inputs = ["input_ids", *["token_type_ids"] * self.has_segments, "attention_mask"]
        tree = {
            # The class that reads tokenizer.json as it is, of whatever kind.
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{key: tokenizer.id_to_token(n) for key, n in ids.items() if n is not None},
            "model_max_length": self.max_row_tokens,
            "model_input_names": inputs,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(tree, indent=2) + "\n")
        for name, content in vocabulary_files(self.file).items():
            (folder / name).write_text(content, encoding="utf-8")

    def special_ids(self) -> dict[str, int]:
        """What config.json may say of the special tokens, besides the padding."""
        special = self.special
        return {
            **dict.fromkeys(("bos_token_id", "cls_token_id"), special.bos),
            **dict.fromkeys(("eos_token_id", "sep_token_id"), special.eos),
            "mask_token_id": special.mask,
        }


def _quiet_transformers() -> None:
    """Turns off the progress bars and the advice of transformers in this process."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
