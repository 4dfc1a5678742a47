"""Tiny Hugging Face folders with tokenizers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models

from tests.pipeline.training_run import VOCAB_SIZE

TINY = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 99,
    "max_position_embeddings": 40,
}

MODEL = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "ffn_hidden_size": 64,
    "max_row_tokens": 32,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
"""The same sizes in a config, with 34 position embeddings."""


def tiny_tokenizer(
    vocab_size: int, merges: Sequence[tuple[str, str]] = (), **ids: int
) -> Tokenizer:
    """A tokenizer with RoBERTa's special ids and the tokens a4, a5, ...; `ids` replace some."""
    vocab = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": vocab_size - 1}
    names = {number: f"a{number}" for number in range(4, vocab_size - 1)}
    names |= {number: token for token, number in ids.items()}
    vocab |= {token: number for number, token in names.items()}
    return Tokenizer(models.BPE(vocab=vocab, merges=list(merges), unk_token="<unk>"))


def tiny_folder(path: Path, tokenizer: Tokenizer | None = None, **changes: Any) -> Path:
    """A RoBERTa folder of `TINY` sizes with `changes`."""
    torch.manual_seed(0)
    config = transformers.RobertaConfig(**{**TINY, **changes})
    transformers.RobertaForMaskedLM(config).save_pretrained(path)
    if tokenizer is not None:
        tokenizer.save(str(path / "tokenizer.json"))
    return path


SAME_SIZES = {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 34}
"""Changes to `TINY` that fit the rows of the tests."""


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
