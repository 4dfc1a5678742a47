"""The config of a data preparation run: what is read, kept, tokenized and packed, and where."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.load import Config
from data_prep.document import BadRecordPolicy
from data_prep.engine import EngineConfig, LocalEngineConfig
from data_prep.filters import FiltersConfig
from data_prep.readers import ReaderConfig
from data_prep.scrub import ScrubConfig

SourceName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class SourceConfig(Config):
    """One source of documents."""

    reader: ReaderConfig
    """The format and the files."""
    filters: FiltersConfig | None = None
    """Limits for this source, instead of the common ones."""


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


class TrainTokenizerConfig(Config):
    """Trains a byte-level BPE on a sample of the documents."""

    type: Literal["train"] = "train"
    vocab_size: int = Field(default=50_265, ge=300)
    """Size of the vocabulary with its five special tokens."""
    sample_mb: int = Field(default=500, ge=1)
    """Text to train on at most, MB. Training takes about four times as much memory."""
    weights: dict[SourceName, float] = Field(default_factory=dict)
    """Share of each source in the sample, relative; by its bytes when not given."""


class TokenizerFromFileConfig(Config):
    """Takes a tokenizer.json with RoBERTa's special tokens."""

    type: Literal["file"]
    path: str
    """The tokenizer.json."""


class TokenizerFromVocabularyConfig(Config):
    """Takes the vocabulary and merges of GPT-2 or RoBERTa."""

    type: Literal["vocabulary"]
    vocab: str
    """vocab.json (GPT-2's is renumbered to RoBERTa's layout, special tokens first and last)."""
    merges: str
    """merges.txt."""


TokenizerConfig = Annotated[
    TrainTokenizerConfig | TokenizerFromFileConfig | TokenizerFromVocabularyConfig,
    Field(discriminator="type"),
]


class PackConfig(Config):
    """How documents are put into rows."""

    mode: Literal["full_sentences", "doc_sentences", "best_fit"] = "full_sentences"
    """Text runs on across documents; or a row holds one document; or whole documents are placed
    where they fit best."""
    mixed: bool = False
    """Rows hold documents of all sources, evenly interleaved, as the one source ``mixed``; else
    every source has rows of its own, which training can weigh."""
    row_tokens: int = Field(default=512, ge=8, le=8192)
    """Ids in a row."""
    block_rows: int = Field(default=256, ge=1, le=1024)
    """Rows in a block (a sample of a shard)."""
    shard_mb: int = Field(default=256, ge=1)
    """Size of a shard, MB."""


class DataConfig(Config):
    """A data preparation run."""

    output: Path
    """Folder of the finished rows: manifest.json, tokenizer.json, shards/, report.html."""
    work: Path
    """Folder of the stages' intermediate files; may be deleted when the rows are finished."""
    sources: dict[SourceName, SourceConfig] = Field(min_length=1)
    """Sources by name; of duplicates, the one in the source that comes first here stays."""
    filters: FiltersConfig = FiltersConfig()
    """Limits outside which a document is dropped, for sources without limits of their own."""
    dedup: DedupConfig = DedupConfig()
    """What counts as a duplicate."""
    scrub: ScrubConfig = ScrubConfig()
    """What is replaced in the texts."""
    decontaminate: DecontaminateConfig | None = None
    """Drop training documents that overlap evaluation texts; null turns it off."""
    tokenizer: TokenizerConfig = TrainTokenizerConfig()
    """Where the tokenizer comes from."""
    pack: PackConfig = PackConfig()
    """Rows and shards."""
    heldout_share: float = Field(default=0.01, ge=0, lt=1)
    """Share of the documents set apart for evaluation, chosen by the hash of their text."""
    checked_share: float = Field(default=0.002, ge=0, le=1)
    """Share of the documents, and one a part at least, that the reference tokenizer encodes too; a
    difference stops the job."""
    encoder: Literal["fast", "reference"] = "fast"
    """gigatoken, or tokenizers (tens of times slower, the same ids)."""
    on_bad_record: BadRecordPolicy = "skip"
    """Count and set aside a record that cannot be read, or stop."""
    max_document_mb: float = Field(default=32, gt=0, le=64)
    """A document of more text counts as a bad record, MB: working on one takes about twenty times
    its size of memory."""
    max_bad_share: float = Field(default=0.05, ge=0, le=1)
    """Share of bad records in a source above which the job stops."""
    part_mb: float = Field(default=64, gt=0)
    """Size of the parts that the input is cut into, MB. Results do not depend on it."""
    engine: EngineConfig = LocalEngineConfig()
    """Where the parts are run. Results do not depend on it."""

    @property
    def sources_with_ids(self) -> set[str]:
        """The sources whose records have ids of their own (`id_field`)."""
        return {
            name
            for name, source in self.sources.items()
            if getattr(source.reader, "id_field", None) is not None
        }

    @model_validator(mode="after")
    def _weights_name_sources(self) -> "DataConfig":
        if isinstance(self.tokenizer, TrainTokenizerConfig) and self.tokenizer.weights:
            different = self.tokenizer.weights.keys() ^ self.sources.keys()
            if different:
                raise ValueError(
                    f"tokenizer.weights must name every source once; check {sorted(different)}"
                )
        return self
