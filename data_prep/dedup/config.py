"""The `dedup` section of a data config."""

from typing import Literal

from pydantic import Field

from configs.load import Config
from data_prep.documents.config import SourceName
from data_prep.readers import ReaderConfig


class NearDedupConfig(Config):
    """Near duplicates: MinHash over word n-grams, 14 bands of 8 hashes."""

    ngram_words: int = Field(default=5, ge=1)
    """Words of an n-gram."""
    groupings: int = Field(default=2, ge=1, le=4)
    """Ways of grouping the 112 hashes into 14 bands: more find more pairs, in more time."""
    min_similarity: float = Field(default=0.75, ge=0, le=1)
    """A candidate pair whose estimated Jaccard similarity is below this is no duplicate."""


class LineDedupConfig(Config):
    """Lines that many documents of one source have: menus, notices, licences."""

    unit: Literal["line", "paragraph"] = "line"
    """What is compared. Lines are equal when their words are."""
    min_words: int = Field(default=4, ge=1)
    """Shorter lines always stay."""
    max_documents: int = Field(default=20, ge=1)
    """A line in more documents of its source than this is repeated too often."""
    keep_first: bool = True
    """Leave it in the first of them, or take it out of all."""


class DecontaminateConfig(Config):
    """Training documents that overlap evaluation texts are dropped."""

    evaluation: dict[SourceName, ReaderConfig] = Field(default_factory=dict)
    """Evaluation texts, by name."""
    heldout: bool = True
    """Whether the held-out documents of this run count as evaluation texts too."""
    ngram_words: int = Field(default=13, ge=1)
    """Words of an n-gram that counts as overlap (Brown et al. 2020, appendix C: 13)."""
    max_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of a document's n-grams that may occur in evaluation texts."""


class DedupConfig(Config):
    """Which documents count as the same. The earlier source, then the earlier document, stays."""

    exact: bool = True
    """Drop documents whose words are the same as those of an earlier one."""
    near: NearDedupConfig | None = NearDedupConfig()
    """Drop documents that nearly equal an earlier one; null turns it off."""
    lines: LineDedupConfig | None = None
    """Take out lines that are repeated within a source; null turns it off."""
