"""The `tokenizer` section of a data config."""

from typing import Annotated, Literal

from pydantic import Field

from configs.load import Config
from configs.paths import ConfigPathText
from data_prep.dataset.special_tokens import ROLES, Role
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


class SpecialTokenNames(Config):
    """Which tokens of a tokenizer are special, where it does not say so itself."""

    bos: str | None = None
    """Token before every row or piece, for example [CLS]."""
    pad: str | None = None
    """Padding."""
    eos: str | None = None
    """Token after every row or piece and between documents, for example [SEP]."""
    unk: str | None = None
    """Token for unknown text."""
    mask: str | None = None
    """Mask; a token that no text needs may become it."""

    def by_role(self) -> dict[Role, str | None]:
        """The names by role."""
        return {role: getattr(self, role) for role in ROLES}


class TokenizerFromFileConfig(Config):
    """Takes over a tokenizer.json of any kind: BPE, WordPiece, Unigram, WordLevel."""

    type: Literal["file"]
    path: ConfigPathText
    """The tokenizer.json."""
    special_tokens: SpecialTokenNames = SpecialTokenNames()
    """Names of special tokens; by default those of the file's post-processor, of the files
    special_tokens_map.json and tokenizer_config.json beside it, and well-known names."""
    vocab_size: int | None = Field(default=None, ge=2)
    """Ids of the model, if it has more than the tokenizer (a padded vocabulary)."""


class TokenizerFromVocabularyConfig(Config):
    """Takes over the vocabulary and merges of GPT-2 or RoBERTa."""

    type: Literal["vocabulary"]
    vocab: ConfigPathText
    """vocab.json (GPT-2's is renumbered to RoBERTa's layout, special tokens first and last)."""
    merges: ConfigPathText
    """merges.txt."""


class ExtendedTokenizerConfig(TokenizerFromFileConfig):
    """Takes over a tokenizer.json and appends new tokens, learned from a sample of the documents.

    Old ids stay the same; new ids follow them.
    """

    type: Literal["extended"]  # type: ignore[assignment]
    new_tokens: int = Field(ge=1)
    """Number of new tokens."""
    sample_mb: int = Field(default=500, ge=1)
    """Maximum text to learn them from, MB."""
    weights: dict[SourceName, float] = Field(default_factory=dict)
    """Relative share of each source in the sample; by default, its share of the bytes."""


TokenizerConfig = Annotated[
    TrainTokenizerConfig
    | TokenizerFromFileConfig
    | TokenizerFromVocabularyConfig
    | ExtendedTokenizerConfig,
    Field(discriminator="type"),
]
LEARNED = TrainTokenizerConfig, ExtendedTokenizerConfig
"""The types that learn from the documents."""
