"""What the first stage does to the documents of one source: which it takes, and their texts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import xxhash

from data_prep.documents.config import SourceConfig
from data_prep.documents.files import StoredDocuments
from data_prep.filters.quality import FiltersConfig, judged
from data_prep.filters.verdicts import Verdicts
from data_prep.readers.document import Document
from data_prep.readers.metadata import as_json
from data_prep.text.batch import TextBatch
from data_prep.text.normalise import DEFAULT_FORM, NormaliseConfig, normalise
from data_prep.text.scrub import ScrubConfig, scrubbed

NOT_SAMPLED = "not in the sample"
_SAMPLE_SEED = 0x5A3D
_NEW_SETTINGS = ("metadata_fields",)
"""Of readers: left out of the settings where they have their default, as older plans lack them."""


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """The settings of one source."""

    source: SourceConfig
    filters: FiltersConfig
    scrub: ScrubConfig
    normalise: NormaliseConfig

    @classmethod
    def of(
        cls,
        source: SourceConfig,
        filters: FiltersConfig,
        scrub: ScrubConfig,
        form: NormaliseConfig,
    ) -> "Treatment":
        """The settings of a source; the others are for what it does not set itself."""
        return cls(
            source=source,
            filters=source.filters or filters,
            scrub=source.scrub or scrub,
            normalise=source.normalise or form,
        )

    def settings(self) -> dict[str, Any]:
        """What the documents depend on, as JSON values. What older versions did not have is left
        out where it is not used, so that their unfinished work is continued."""
        source, form = self.source, self.normalise
        reader = source.reader.model_dump(mode="json", exclude={"files"})
        reader = {key: v for key, v in reader.items() if v or key not in _NEW_SETTINGS}
        settings = {"reader": reader, "filters": self.filters.settings()}
        if source.scrub is not None:
            settings["scrub"] = source.scrub.settings()
        if form != DEFAULT_FORM:
            settings["normalise"] = form.model_dump(mode="json")
        chosen = {"limit": source.limit, "sample": source.sample}
        return settings | {key: value for key, value in chosen.items() if value is not None}

    @property
    def has_metadata(self) -> bool:
        """Whether documents are stored with metadata."""
        return bool(getattr(self.source.reader, "metadata_fields", ()))

    def is_sampled(self, document: Document) -> bool:
        """Whether a document is of the source's sample, by a hash of its text."""
        share = self.source.sample
        if share is None:
            return True
        text = document.text.encode("utf-8", "surrogatepass")
        return xxhash.xxh3_64_intdigest(text, _SAMPLE_SEED) < share * 2.0**64

    def texts(self, batch: Sequence[Document], scrubs: Counter[str]) -> list[bytes]:
        """The normalised and scrubbed texts; adds what was replaced to `scrubs`."""
        texts = normalise([document.text for document in batch], self.normalise)
        return scrubbed(texts, self.scrub, scrubs)

    def judged(self, batch: Sequence[Document], texts: Sequence[bytes]) -> Verdicts:
        """The verdicts of all filters, with statistics."""
        verdicts = judged(TextBatch(texts), self.filters, statistics=True)
        for custom in self.filters.custom:
            custom.judge(batch, texts, verdicts)
        return verdicts

    def stored(
        self, batch: Sequence[Document], texts: Sequence[bytes], numbers: Sequence[int]
    ) -> StoredDocuments:
        """The documents `numbers` of a batch, as they are stored."""
        documents = [batch[k] for k in numbers]
        metadata = [as_json(d.metadata or {}) for d in documents] if self.has_metadata else None
        return StoredDocuments([texts[k] for k in numbers], [d.id for d in documents], metadata)


def treatments(
    sources: Mapping[str, SourceConfig],
    filters: Mapping[str, FiltersConfig],
    scrub: ScrubConfig,
    form: NormaliseConfig,
) -> dict[str, Treatment]:
    """The settings of each source; `filters` are those of each source, too."""
    return {
        name: Treatment.of(source, filters[name], scrub, form) for name, source in sources.items()
    }
