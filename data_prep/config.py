"""The config of a data preparation run, composed of the packages' configs."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from configs.load import Config
from configs.paths import ConfigPath, is_url
from data_prep.dedup.config import DecontaminateConfig, DedupConfig
from data_prep.documents.config import SourceConfig, SourceName, check_sources
from data_prep.engine.workers import EngineConfig, LocalEngineConfig
from data_prep.filters.quality import FiltersConfig
from data_prep.packing.config import PackConfig
from data_prep.readers.document import BadRecordPolicy
from data_prep.text.normalise import NormaliseConfig
from data_prep.text.scrub import ScrubConfig
from data_prep.tokenization.config import LEARNED, TokenizerConfig, TrainTokenizerConfig


class DataConfig(Config):
    """A data preparation run."""

    output: ConfigPath
    """Folder of the finished rows: manifest.json, tokenizer.json, shards/, report.html."""
    work: ConfigPath
    """Folder of the stages' intermediate files; may be deleted when the rows are finished."""
    sources: dict[SourceName, SourceConfig] = Field(min_length=1)
    """Sources by name. Of duplicates, the one in the source that comes first here is kept."""
    filters: FiltersConfig = FiltersConfig()
    """Filter limits for the sources that have none of their own."""
    dedup: DedupConfig = DedupConfig()
    """What counts as a duplicate."""
    scrub: ScrubConfig = ScrubConfig()
    """What is replaced in the texts of sources that have no `scrub` of their own."""
    normalise: NormaliseConfig = NormaliseConfig()
    """The normal form of the texts of sources that have none of their own."""
    decontaminate: DecontaminateConfig | None = None
    """Drop training documents that overlap evaluation texts; null turns it off."""
    tokenizer: TokenizerConfig = TrainTokenizerConfig()
    """Where the tokenizer comes from."""
    pack: PackConfig = PackConfig()
    """Sequence packing: rows (packed sequences) and shards."""
    heldout_share: float = Field(default=0.01, ge=0, lt=1)
    """Share of the documents held out for evaluation, chosen by the hash of their text."""
    checked_share: float = Field(default=0.002, ge=0, le=1)
    """Share of the documents, and at least one per part, that the reference tokenizer encodes too;
    a difference stops the job."""
    encoder: Literal["fast", "reference"] = "fast"
    """fast: gigatoken, where it gives the ids of the library tokenizers (it is tried before the
    work; a notice says where it does not); reference: tokenizers, tens of times slower."""
    on_bad_record: BadRecordPolicy = "skip"
    """Whether a record that cannot be read is counted and skipped, or stops the job."""
    max_document_mb: float = Field(default=32, gt=0, le=64)
    """Longest document, MB of text; a longer one is a bad record. Processing a document takes about
    twenty times its size in memory."""
    max_bad_share: float = Field(default=0.05, ge=0, le=1)
    """Share of bad records in a source, or of bytes that cannot be read or are missing in files
    that are cut short, above which the job stops."""
    part_mb: float = Field(default=64, gt=0)
    """Size of the parts that the input is partitioned into, MB. Results do not depend on it."""
    engine: EngineConfig = LocalEngineConfig()
    """Where the parts are run. Results do not depend on it."""

    @field_validator("output", "work", mode="before")
    @classmethod
    def _is_no_url(cls, folder: object) -> object:
        if is_url(folder):
            raise ValueError(
                f"{folder!r} is a URL; the stages write to a local or shared file system: give a "
                "folder there, and upload the finished rows with `python -m data_prep.upload "
                "OUTPUT URL`"
            )
        return folder

    def filters_of(self, source: str) -> FiltersConfig:
        """The filter limits of a source."""
        return self.sources[source].filters or self.filters

    def form_of(self, source: str) -> NormaliseConfig:
        """The normal form of the texts of a source."""
        return self.sources[source].normalise or self.normalise

    @property
    def sources_with_ids(self) -> set[str]:
        """The sources whose records have their own ids (`id_field`)."""
        return {
            name
            for name, source in self.sources.items()
            if getattr(source.reader, "id_field", None) is not None
        }

    @model_validator(mode="after")
    def _sources_fit(self) -> "DataConfig":
        check_sources(self.sources, self.filters, is_mixed=self.pack.mixed)
        field = self.pack.order_field
        known = {f for s in self.sources.values() for f in getattr(s.reader, "metadata_fields", ())}
        if field is not None and field not in known:
            raise ValueError(
                f"pack.order_by.field: no source has {field!r} in its reader.metadata_fields "
                f"({', '.join(sorted(known)) or 'none'}): add it to those whose records have it"
            )
        return self

    @model_validator(mode="after")
    def _weights_name_sources(self) -> "DataConfig":
        if isinstance(self.tokenizer, LEARNED) and self.tokenizer.weights:
            different = self.tokenizer.weights.keys() ^ self.sources.keys()
            if different:
                raise ValueError(
                    f"tokenizer.weights must name every source once; check {sorted(different)}"
                )
        return self
