"""What a checkpoint's manifest says of files and parameters, and whether its numbers agree."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from configs.load import Config
from data_prep.dataset.files import RelativePath

Count = Annotated[int, Field(ge=0, le=1 << 53)]
Size = Annotated[int, Field(gt=0, le=1 << 53)]
Ranks = Annotated[int, Field(gt=0, le=1 << 20)]

FP32_BYTES = 4


class FileRecord(Config):
    """A file of a checkpoint."""

    path: RelativePath
    """Name inside the checkpoint's folder."""
    bytes: Size
    """Size."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}\z")]
    """Hash of the content (hex)."""


class AveragedCheckpoint(Config):
    """A checkpoint whose weights are part of an average."""

    path: str
    """Where it was."""
    step: Count
    """Its optimizer step."""
    weight: Annotated[float, Field(gt=0, le=1)]
    """Its share of the average."""
    sha256: str
    """Hash of its manifest, which holds those of its files (hex)."""
    tracking_run_id: str | None = None
    """MLflow's id of its run."""


class ParameterRecord(Config):
    """A parameter over all ranks."""

    shape: tuple[Size, ...]
    """Full shape, without vocabulary padding."""
    partition_dim: int | None
    """The dimension that tensor-parallel ranks shard; None: every rank holds all of it."""

    @model_validator(mode="after")
    def _partition_dim_exists(self) -> "ParameterRecord":
        if self.partition_dim is not None and not 0 <= self.partition_dim < len(self.shape):
            raise ValueError(f"partition_dim {self.partition_dim} of the shape {self.shape}")
        return self


def contradictions(
    tensor_files: Sequence[FileRecord],
    other_files: Sequence[FileRecord],
    parameters: Mapping[str, ParameterRecord],
    num_files: int,
) -> Iterator[str]:
    """What cannot be true of a checkpoint; nothing for one whose files are not yet written."""
    if not tensor_files:
        return
    if len(tensor_files) != num_files:
        yield f"{len(tensor_files)} tensor files, but {num_files} ranks wrote one each"
    paths = sorted(record.path for record in (*tensor_files, *other_files))
    for path, after in pairwise(paths):
        if path == after:
            yield f"{path} appears twice"
    wanted = num_weights(parameters) * FP32_BYTES
    found = sum(record.bytes for record in tensor_files)
    if wanted > found:
        yield f"weights of {wanted:,} bytes in files of {found:,} bytes"


def num_weights(parameters: Mapping[str, ParameterRecord]) -> int:
    """The number of all weights."""
    return sum(math.prod(record.shape) for record in parameters.values())
