"""The `tokenizer` section of a data config."""

from typing import Annotated, Literal

from pydantic import Field

from configs.load import Config
from data_prep.documents.config import SourceName


class TrainTokenizerConfig(Config):
    """Trains a byte-level BPE on a sample of the documents."""

    type: Literal["train"] = "train"
    vocab_size: int = Field(default=50_265, ge=300)
    """Size of the vocabulary with its five special tokens."""
    sample_mb: int = Field(default=500, ge=1)
    """Maximum text to train on, MB. Training takes about four times as much memory."""
    weights: dict[SourceName, float] = Field(default_factory=dict)
    """Relative share of each source in the sample; by default, its share of the bytes."""


class TokenizerFromFileConfig(Config):
    """Takes over a tokenizer.json with RoBERTa's special tokens."""

    type: Literal["file"]
    path: str
    """The tokenizer.json."""


class TokenizerFromVocabularyConfig(Config):
    """Takes over the vocabulary and merges of GPT-2 or RoBERTa."""

    type: Literal["vocabulary"]
    vocab: str
    """vocab.json (GPT-2's is renumbered to RoBERTa's layout, special tokens first and last)."""
    merges: str
    """merges.txt."""


TokenizerConfig = Annotated[
    TrainTokenizerConfig | TokenizerFromFileConfig | TokenizerFromVocabularyConfig,
    Field(discriminator="type"),
]
