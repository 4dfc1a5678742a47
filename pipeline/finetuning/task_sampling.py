"""Which tasks each optimizer step trains on: the settings. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from configs.load import Config


class EveryTask(Config):
    """Every step trains on all tasks."""

    type: Literal["all"] = "all"


class SampledTask(Config):
    """Every step trains on one task, drawn with a probability proportional to n^`exponent`, where n
    are the task's training examples, but at most `limit`. `mlm` takes part in all steps.

    Sources: Raffel et al. 2020 (T5), section 3.5.2: `limit` is their K, `exponent` 1 / T of their
    temperature; Stickland and Murray 2019 (BERT and PALs): `exponent` is their alpha.
    """

    type: Literal["sampled"] = "sampled"

    exponent: float = Field(1.0, ge=0, le=1)
    """1: in proportion to the examples; 0: all tasks alike; 0.5: by the square root."""

    limit: PositiveInt | None = None
    """The most examples that count for a task (default: no limit)."""

    annealed: bool = False
    """Whether the exponent falls linearly from `exponent` at the first step to 0.2 x `exponent` at
    the last one, so that small tasks are seen more towards the end (Stickland and Murray 2019, over
    steps in place of epochs)."""


TaskSampling = Annotated[EveryTask | SampledTask, Field(discriminator="type")]
