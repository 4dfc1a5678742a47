"""The `data` section of a training config."""

from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from configs.load import Config
from configs.paths import ConfigPath, is_url


class DataConfig(Config):
    """Which packed rows are trained on."""

    path: ConfigPath
    """The folder that data preparation wrote (it holds manifest.json), or a cache of it."""

    url: str | None = None
    """Address of that folder in an object store, for fsspec (s3://bucket/rows); `path` is then a
    cache of its shards on a disk of each node."""

    cache_gb: PositiveFloat = 100.0
    """Disk space of the cache on each node, 1e9 bytes; used with `url` only."""

    shuffle_unit: Literal["block", "shard"] = "block"
    """What each epoch shuffles first, before it shuffles rows in windows of about 2^18: the blocks
    of rows in the shards, or whole shards, so that a window needs few shards (needed by `url`)."""

    weights: dict[str, NonNegativeFloat] | None = None
    """Share of every source in the stream; they need not sum to 1 (default: by row count)."""

    sampling_exponent: float | None = Field(None, gt=0, le=1)
    """Shares by row count to this power, which raises those of small sources: temperature sampling,
    with temperature 1 / exponent (0.3: XLM-R's alpha; 0.7, 0.5, 0.3: mmBERT's phases). In place of
    `weights`."""

    verify: Literal["full", "sizes"] = "full"
    """What is checked of the shards at the start: their sha256 (by all ranks, each a share; not
    again at a restart, unless a file's size or time has changed), or only their sizes."""

    workers: NonNegativeInt = 1
    """Processes a rank that read and mask rows; 0: in the training process."""

    prefetch_steps: PositiveInt = 4
    """Optimizer steps that each worker prepares ahead."""

    @field_validator("path", mode="before")
    @classmethod
    def _path_is_no_url(cls, path: object) -> object:
        if is_url(path):
            raise ValueError(
                f"{path!r} is a URL: give it as data.url, with shuffle_unit: shard; data.path is "
                "then the folder of its cache on a disk of each node"
            )
        return path

    @field_validator("url")
    @classmethod
    def _url_is_one(cls, url: str | None) -> str | None:
        if url is not None and not is_url(url):
            raise ValueError(
                f"{url!r} is no URL, such as s3://bucket/rows; data.path is for a folder"
            )
        return url

    @model_validator(mode="after")
    def _units_suit_a_cache(self) -> "DataConfig":
        if self.url is not None and self.shuffle_unit != "shard":
            raise ValueError(
                "url needs shuffle_unit: shard, else every shuffle window lies in every shard"
            )
        return self

    @model_validator(mode="after")
    def _one_rule_of_shares(self) -> "DataConfig":
        if self.weights is not None and self.sampling_exponent is not None:
            raise ValueError("weights and sampling_exponent exclude each other: give one")
        return self
