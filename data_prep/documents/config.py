"""The `sources` section of a data config."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from configs.load import Config
from data_prep.filters.custom import ScoreFilterConfig
from data_prep.filters.quality import FiltersConfig
from data_prep.readers import ReaderConfig
from data_prep.text.normalise import NormaliseConfig
from data_prep.text.scrub import ScrubConfig

SourceName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class SourceConfig(Config):
    """One source of documents."""

    reader: ReaderConfig
    """The format and the files."""
    filters: FiltersConfig | None = None
    """Filter limits of this source; the config's `filters` if not given."""
    scrub: ScrubConfig | None = None
    """What is replaced in its texts; the config's `scrub` if not given."""
    normalise: NormaliseConfig | None = None
    """The normal form of its texts; the config's `normalise` if not given."""
    limit: int | None = Field(default=None, ge=1)
    """Read no more than this many documents: the first ones, in the order of the files. They are
    read in one part, which stops there."""
    sample: float | None = Field(default=None, gt=0, le=1)
    """Take only this share of the documents, chosen by a hash of their text before the filters:
    always the same ones, and equal ones alike. With `limit`, the first ones of the sample."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Pack no more than this many tokens of training documents: the first documents, in the order
    of the files, that fit in. Held-out documents do not count."""
    repeat: float = Field(default=1, gt=0, le=1000)
    """How many times each training document is packed, with `pack.mixed` only; 2.5: each one twice,
    and every second one a third time. Held-out documents are packed once. Without `pack.mixed`,
    the mixture weights of the training config serve this."""


def check_sources(
    sources: Mapping[str, SourceConfig], filters: FiltersConfig, *, is_mixed: bool
) -> None:
    """ValueError where a source's settings do not fit the rest; `filters` are those of sources
    without their own, `is_mixed` is `pack.mixed`."""
    for name, source in sources.items():
        if source.repeat != 1 and not is_mixed:
            raise ValueError(
                f"sources.{name}.repeat is for pack.mixed: true only; else every source has rows "
                "of its own, which data.weights of the training config repeats"
            )
        known = getattr(source.reader, "metadata_fields", ())
        for custom in (source.filters or filters).custom:
            if isinstance(custom, ScoreFilterConfig) and custom.field not in known:
                raise ValueError(
                    f"sources.{name}: the filter by the field {custom.field!r} needs it in "
                    f"reader.metadata_fields, which has {', '.join(known) or 'none'}"
                )
