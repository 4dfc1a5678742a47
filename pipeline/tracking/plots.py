"""Curves of a run (loss, accuracy, learning rate, gradient norm) as PNG files."""

from collections import defaultdict
from pathlib import Path

from pipeline.tracking.event_log import LOG_NAME, read_events

PLOTS = {
    "loss": ("loss", "heldout_loss", "heldout_unigram_loss"),
    "accuracy": ("accuracy", "heldout_accuracy"),
    "learning_rate": ("learning_rate",),
    "gradient_norm": ("gradient_norm",),
}
"""Name of the plot, and the metrics that it shows."""

MAX_POINTS = 2000
"""A curve has at most twice as many points."""

MAX_MARKED_POINTS = 50
"""A curve of fewer points shows each of them."""


class Curve:
    """Points of a metric, thinned out evenly, so that memory does not grow with the run."""

    def __init__(self) -> None:
        self._points: list[tuple[int, float]] = []
        self._last: tuple[int, float] | None = None
        self._stride = 1
        self._num_seen = 0

    def add(self, step: int, value: float) -> None:
        """Adds the value of an optimizer step."""
        self._last = (step, value)
        if self._num_seen % self._stride == 0:
            self._points.append(self._last)
            if len(self._points) == 2 * MAX_POINTS:
                self._points = self._points[::2]
                self._stride *= 2
        self._num_seen += 1

    def points(self) -> tuple[list[int], list[float]]:
        """(steps, values), the last one included."""
        points = list(self._points)
        if self._last is not None and points[-1] != self._last:
            points.append(self._last)
        return [step for step, _ in points], [value for _, value in points]


def draw_curves(output: Path, folder: Path) -> list[Path]:
    """Draws the plots of the run in `output` and returns their PNG files in `folder`."""
    from matplotlib.figure import Figure

    shown = {name for names in PLOTS.values() for name in names}
    curves: dict[str, Curve] = defaultdict(Curve)
    for event, _ in read_events(output / LOG_NAME):
        if event["kind"] == "metrics":
            for name in shown & event["values"].keys():
                curves[name].add(event["step"], event["values"][name])
    paths = []
    for title, names in PLOTS.items():
        drawn = [name for name in names if name in curves]
        if not drawn:
            continue
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        for name in drawn:
            steps, values = curves[name].points()
            marker = "." if len(steps) < MAX_MARKED_POINTS else None
            axes.plot(steps, values, label=name, marker=marker)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(title)
        axes.grid(alpha=0.3)
        axes.legend()
        paths.append(folder / f"{title}.png")
        figure.savefig(paths[-1], dpi=110)
    return paths
