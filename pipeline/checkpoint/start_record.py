"""What a run records of the weights that it started from, in its folder and in each checkpoint.

The record of a run that started from another run holds that one's own record, so a checkpoint names
all data that its weights were trained on.
"""

from collections.abc import Iterator
from typing import Any

from configs.load import Config
from pipeline.checkpoint.records import AveragedCheckpoint


class StartRecord(Config):
    """The weights that a run started from."""

    path: str
    """``start.path`` of its first start."""
    description: str
    """What they are."""
    fingerprint: str
    """Their hash."""
    model_type: str | None = None
    """The family of a Hugging Face folder."""
    step: int | None = None
    """Optimizer step of the checkpoint, if they are one; the fields below are its manifest's."""
    name: str | None = None
    """Name of the run."""
    data: dict[str, Any] | None = None
    """Paths of the data of its phases, and their fingerprint."""
    tracking_run_id: str | None = None
    """MLflow's id of the run."""
    averaged: tuple[AveragedCheckpoint, ...] | None = None
    """The checkpoints that they are the average of; None: one checkpoint, or a folder."""
    start: "StartRecord | None" = None
    """What that run started from; None: random weights."""

    def ancestors(self) -> Iterator["StartRecord"]:
        """This record, that of the run before, and so on."""
        record: StartRecord | None = self
        while record is not None:
            yield record
            record = record.start
