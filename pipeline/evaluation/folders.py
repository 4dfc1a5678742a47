"""A Hugging Face folder as a model of an evaluation: everything but its weights."""

import tempfile
from pathlib import Path
from typing import Any

from configs.load import UserError, fingerprint
from data_prep.dataset.files import read_json
from data_prep.dataset.manifest import file_sha256
from data_prep.dataset.special_tokens import find_special_tokens
from data_prep.dataset.tokenizer import load_tokenizer, num_ids, text_tokenizer
from pipeline.evaluation.models import FoundModel, left_out
from pipeline.hugging_face.folder import EXPORT_NAME, PARITY_NAME, load_auto_tokenizer


def model_of_folder(folder: Path) -> FoundModel:
    """The model in `folder`; raises UserError for one that our network does not compute."""
    from pipeline.hugging_face.weights import read_hf_folder

    hf = read_hf_folder(folder, left_out(folder))
    with tempfile.TemporaryDirectory() as temporary:
        file = _tokenizer_file(folder, Path(temporary))
        tokenizer = load_tokenizer(file)
        special = find_special_tokens(
            tokenizer, file, vocab_size=max(hf.vocab_size, num_ids(tokenizer))
        )
        sha256, of_texts = file_sha256(file), text_tokenizer(file, special)
    name = folder.resolve().name
    if name == EXPORT_NAME:
        name = f"{folder.resolve().parent.name}-{name}"
    return FoundModel(
        name=name,
        path=folder,
        config=hf.config,
        vocab_size=hf.vocab_size,
        tokenizer=of_texts,
        special=special,
        no_masks="" if hf.has_head else "the folder holds no masked-language-model head",
        origin={
            "kind": f"Hugging Face folder ({hf.family.model_type})",
            "path": str(folder.resolve()),
            "sha256": fingerprint([file_sha256(path) for path in hf.files]),
            "tokenizer_sha256": sha256,
            **_exported_from(folder),
        },
    )


def _tokenizer_file(folder: Path, temporary: Path) -> Path:
    """The tokenizer.json of `folder`; where it has only a vocabulary, one made of it."""
    file = folder / "tokenizer.json"
    if file.is_file():
        return file
    load_auto_tokenizer(folder).save_pretrained(temporary)
    made = temporary / "tokenizer.json"
    if not made.is_file():
        raise UserError(f"{folder}: no tokenizer.json, and none can be made of its other files")
    return made


def _exported_from(folder: Path) -> dict[str, Any]:
    """The step and the checkpoint that the folder says it was exported from."""
    try:
        tree = read_json(folder / PARITY_NAME)
        return {"step": int(tree["step"]), "checkpoint_fingerprint": tree["checkpoint_fingerprint"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # not one of ours
