"""The `checkpoint` section of a config."""

from pydantic import NonNegativeInt, PositiveInt

from configs.load import Config


class CheckpointConfig(Config):
    """When the state is saved, and which saves are kept: those that any of the rules keeps."""

    every_steps: PositiveInt = 1000
    """Optimizer steps between saves; the last step is always saved."""

    keep_last: PositiveInt = 3
    """Newest checkpoints that stay on disk."""

    keep_every_steps: PositiveInt | None = None
    """Checkpoints whose step is a multiple of this stay (default: none)."""

    keep_best: NonNegativeInt = 0
    """Checkpoints with the lowest held-out loss (fine-tuning: dev error) that stay."""
