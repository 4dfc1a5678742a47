"""The `checkpoint` section of a config."""

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from configs.load import Config
from pipeline.validation.config import ValidationConfig


class CheckpointConfig(Config):
    """When checkpoints are saved, and which are kept: those that at least one rule keeps."""

    every_steps: PositiveInt = 1000
    """Optimizer steps between saves; the last step is always saved."""

    every_minutes: PositiveFloat | None = None
    """Minutes after which a step is saved too, counted from the last save (default: only
    `every_steps` counts). What is trained does not depend on it."""

    keep_last: PositiveInt = 3
    """The number of newest checkpoints that are kept."""

    keep_every_steps: PositiveInt | None = None
    """Checkpoints whose step is a multiple of this are kept (default: none)."""

    keep_best: NonNegativeInt = 0
    """The number of checkpoints with the lowest held-out loss (fine-tuning: dev error) that are
    kept, in a run of several phases those of the last phase that was evaluated. With at least 1,
    every evaluation that is the best so far is followed by a save. Early stopping keeps 1."""

    def for_validation(self, validation: ValidationConfig) -> "CheckpointConfig":
        """These rules; early stopping, whose result is the best checkpoint, keeps at least that."""
        keep_best = max(self.keep_best, 1) if validation.early_stopping else self.keep_best
        return self.model_copy(update={"keep_best": keep_best})
