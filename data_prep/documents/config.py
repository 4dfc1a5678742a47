"""The `sources` section of a data config."""

from typing import Annotated

from pydantic import Field

from configs.load import Config
from data_prep.filters.quality import FiltersConfig
from data_prep.readers import ReaderConfig

SourceName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class SourceConfig(Config):
    """One source of documents."""

    reader: ReaderConfig
    """The format and the files."""
    filters: FiltersConfig | None = None
    """Filter limits of this source; the config's `filters` if not given."""
