"""The `dedup` section of a data config."""

from typing import Literal

from pydantic import Field, model_validator

from configs.load import Config
from data_prep.documents.config import SourceName
from data_prep.readers import ReaderConfig


class NearDedupConfig(Config):
    """Near-duplicates: MinHash over word n-grams, LSH banding with 14 bands of 8 hashes."""

    ngram_words: int = Field(default=5, ge=1)
    """Words of an n-gram."""
    groupings: int = Field(default=2, ge=1, le=4)
    """Groupings of the 112 hashes into 14 bands: more find more pairs and take more time."""
    min_similarity: float = Field(default=0.75, ge=0, le=1)
    """Estimated Jaccard similarity from which a candidate pair counts as duplicates."""


class LineDedupConfig(Config):
    """Lines that many documents of one source have, such as menus and notices, are removed."""

    unit: Literal["line", "paragraph"] = "line"
    """What is compared. Lines are equal if their words are."""
    min_words: int = Field(default=4, ge=1)
    """Words of a line; shorter lines are always kept."""
    max_documents: int = Field(default=20, ge=1)
    """Documents of its source that may have a line; with more, it is removed."""
    keep_first: bool = True
    """Keep the line in the first document that has it, instead of removing it from all."""


class DecontaminateConfig(Config):
    """Training documents that overlap with evaluation texts are dropped."""

    evaluation: dict[SourceName, ReaderConfig] = Field(default_factory=dict)
    """Sets of evaluation texts, by name: a file, or several."""
    fields: dict[SourceName, tuple[str, ...]] = Field(default_factory=dict)
    """By set, the fields of its records that are looked for (questions, answers, choices), in place
    of the reader's text_field. Names or dotted paths; each text of a list is one text."""
    heldout: bool = True
    """Whether the held-out documents of this run count as evaluation texts, too."""
    ngram_words: int = Field(default=13, ge=1)
    """Words of an n-gram that counts as overlap (Brown et al. 2020, appendix C: 13)."""
    min_text_words: int = Field(default=8, ge=1)
    """Shorter evaluation texts than an n-gram are looked for as a whole from this many words on
    (Brown et al. 2020, appendix C: 8); shorter ones are counted, and not looked for."""
    max_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of a document's n-grams that may occur in evaluation texts; a short text counts as one
    n-gram."""

    @model_validator(mode="after")
    def _fields_name_sets(self) -> "DecontaminateConfig":
        unknown = sorted(self.fields.keys() - self.evaluation.keys())
        if unknown:
            raise ValueError(
                f"fields: no evaluation set is named {', '.join(unknown)}; there are "
                f"{', '.join(self.evaluation) or 'none'}"
            )
        empty = [name for name, fields in self.fields.items() if not fields]
        if empty:
            raise ValueError(f"fields: {', '.join(empty)}: name at least one field")
        return self


class DedupConfig(Config):
    """Which documents count as duplicates.

    Of a set of duplicates, the document of the earliest source is kept; in one source, the first.
    """

    exact: bool = True
    """Drop documents with the same words as an earlier one."""
    near: NearDedupConfig | None = NearDedupConfig()
    """Drop near-duplicates of earlier documents; null turns it off."""
    lines: LineDedupConfig | None = None
    """Remove lines that are repeated within a source; null turns it off."""
