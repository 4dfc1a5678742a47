"""Dynamic loss scaling for fp16: a pure function of which steps overflowed, saved with the run."""

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from configs.load import Config


class LossScaleConfig(Config):
    """How the factor on fp16 losses follows the gradients (Micikevicius et al. 2018)."""

    initial: PositiveFloat = 2.0**16
    """The factor that a run starts with."""

    window_steps: PositiveInt = 1000
    """Steps in a row without overflow after which the factor doubles."""

    smallest: PositiveFloat = 1.0
    """The factor is never halved below this: a step that overflows at it counts as unstable."""


class LossScale(Config):
    """The factor on the loss of the next step."""

    scale: PositiveFloat
    """The factor."""
    good_steps: NonNegativeInt = 0
    """Steps in a row without overflow since it last changed."""

    def after(self, overflowed: bool, config: LossScaleConfig) -> "LossScale":
        """The factor after a step: halved by an overflow, doubled after `window_steps` without."""
        if overflowed:
            return LossScale(scale=max(self.scale / 2, config.smallest))
        if self.good_steps + 1 >= config.window_steps:
            return LossScale(scale=self.scale * 2)
        return LossScale(scale=self.scale, good_steps=self.good_steps + 1)
