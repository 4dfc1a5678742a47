"""How evaluations act on training: the settings. Imports no torch."""

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from configs.load import Config


class EarlyStoppingConfig(Config):
    """When a run ends because its score no longer improves; the best checkpoint is then kept."""

    patience: PositiveInt = 5
    """Evaluations in a row without an improvement at which the run ends."""

    min_delta: NonNegativeFloat = Field(0.0, allow_inf_nan=False)
    """How much lower than the last improvement a score has to be to count as one."""


class PlateauConfig(Config):
    """When the learning rate is reduced because the score no longer improves.

    The learning rate is that of `schedule` times a factor, which starts at 1 in every phase.
    """

    patience: PositiveInt = 3
    """Evaluations in a row without an improvement at which the learning rate is reduced."""

    factor: float = Field(0.5, gt=0, lt=1)
    """What a reduction multiplies the learning rate by."""

    min_delta: NonNegativeFloat = Field(0.0, allow_inf_nan=False)
    """How much lower than the last improvement a score has to be to count as one."""

    cooldown: NonNegativeInt = 0
    """Evaluations after a reduction that do not count towards `patience`."""

    min_lr: NonNegativeFloat = Field(0.0, allow_inf_nan=False)
    """Learning rate that reductions do not go below; the schedule itself may."""


class ValidationConfig(Config):
    """How evaluations act on training.

    The score is the held-out loss or, in fine-tuning, the mean error on the dev files.
    """

    early_stopping: EarlyStoppingConfig | None = None
    """When the run ends early (default: never). Evaluations of the last phase count."""

    plateau: PlateauConfig | None = None
    """When the learning rate is reduced (default: never). Each phase starts without reductions."""
