"""Where a step of a run is on the x axis: its number, or how much was trained until then."""

from collections.abc import Mapping

import numpy as np

from pipeline.reporting.curve import Curve, Floats

AXES = {
    "step": "optimizer step",
    "rows": "rows",
    "tokens": "tokens",
    "hours": "hours of training steps",
}
"""The axes, and their names in charts."""


class Positions:
    """The positions of the steps of one run on an axis."""

    def __init__(self, axis: str, curves: Mapping[str, Curve]) -> None:
        """`axis` is one of `AXES`; steps whose position is not recorded are left out of charts."""
        self._steps: Floats | None = None
        if axis == "step":
            return
        name = {"rows": "rows", "tokens": "tokens", "hours": "step_s"}[axis]
        points = curves[name].points() if name in curves else Curve().points()
        self._steps, self._places = points.steps, points.mean
        if axis != "rows":
            # At the mean step of a bucket of n steps, (n + 1) / 2 of them are done.
            totals = points.mean * points.num_steps
            self._places = np.cumsum(totals) - totals + points.mean * (points.num_steps + 1) / 2
            if axis == "hours":
                self._places = self._places / 3600

    @property
    def is_known(self) -> bool:
        """Whether any position is recorded."""
        return self._steps is None or bool(self._steps.size)

    def of(self, steps: Floats) -> Floats:
        """The position of each of `steps`; NaN where it is not known."""
        if self._steps is None:
            return steps
        if not self._steps.size:
            return np.full_like(steps, np.nan)
        return np.interp(steps, self._steps, self._places)
