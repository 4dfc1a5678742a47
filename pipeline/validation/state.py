"""What is known of a run's evaluations so far, as checkpoints record it. Imports no torch."""

from typing import Annotated

from pydantic import Field

from configs.load import Config

Count = Annotated[int, Field(ge=0, le=1 << 53)]


class Waiting(Config):
    """How long an improvement has been waited for."""

    reference: float | None = None
    """The score of the last improvement; None: no score yet."""
    evaluations: Count = 0
    """Evaluations since then."""


class ValidationState(Config):
    """The evaluations of a run up to a step, lower scores being better."""

    phase: Count
    """Number of the phase that they belong to, from 0: those of different phases are not compared,
    since their held-out rows differ."""
    measured_on: str
    """Hash of the rows, masks or files that the scores were measured on."""
    best_score: float | None = None
    """The lowest finite score; None: there was none."""
    best_step: Count | None = None
    """The step of `best_score`."""
    early_stopping: Waiting = Waiting()
    """What early stopping waits for."""
    plateau: Waiting = Waiting()
    """What the next reduction of the learning rate waits for."""
    cooldown: Count = 0
    """Evaluations that do not yet count towards the next reduction."""
    factor: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The factor on the schedule's learning rate."""
