"""Rows of the tokenizers of `tests.tokenizer_kinds`, and models for them."""

from pathlib import Path
from typing import Any

from data_prep.dataset.manifest import Manifest, read_manifest
from data_prep.run import prepare
from pipeline.checkpoint.manifest import Checkpoint, find_checkpoint
from pipeline.run.config import RunConfig
from pipeline.run.run_folder import checkpoints_folder
from tests.data_prep.corpora import forum_config, write_forum
from tests.tokenizer_kinds import save, texts

ROW_TOKENS = 32


def prepared(kind: str, folder: Path) -> Manifest:
    """The rows of a kind's tokenizer in `folder`/rows."""
    write_forum(folder / "raw", texts(60))
    path = save(kind, folder / "tokenizer")
    prepare(forum_config(folder, tokenizer={"type": "file", "path": str(path)}))
    return read_manifest(folder / "rows")


def model_of(manifest: Manifest, **changes: Any) -> dict[str, Any]:
    """The model section for rows of `manifest`, in the family that has its padding id."""
    special = manifest.special_tokens
    offset = 2 if special.pad == 1 else 0
    return {
        "num_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "max_row_tokens": ROW_TOKENS,
        "pad_token_id": special.pad,
        "begin_token_id": special.bos,
        "positions": {"type": "learned", "offset": offset},
        "packed_rows": {"type": "inside"},
        "type_vocab_size": 1 if offset else 2,
        **changes,
    }


def newest(config: RunConfig) -> Checkpoint:
    checkpoint, problems = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None, problems
    return checkpoint
