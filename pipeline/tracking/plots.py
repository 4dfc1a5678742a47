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

MAX_MARKED_POINTS = 50
"""A curve of fewer points shows each of them."""


def draw_curves(output: Path, folder: Path) -> list[Path]:
    """Draws the plots of the run in `output` and returns their PNG files in `folder`."""
    from matplotlib.figure import Figure

    curves: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
    for event, _ in read_events(output / LOG_NAME):
        if event["kind"] == "metrics":
            for name, value in event["values"].items():
                curves[name][0].append(event["step"])
                curves[name][1].append(value)
    folder.mkdir(exist_ok=True)
    paths = []
    for title, names in PLOTS.items():
        drawn = [name for name in names if name in curves]
        if not drawn:
            continue
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        for name in drawn:
            steps, values = curves[name]
            marker = "." if len(steps) < MAX_MARKED_POINTS else None
            axes.plot(steps, values, label=name, marker=marker)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(title)
        axes.grid(alpha=0.3)
        axes.legend()
        paths.append(folder / f"{title}.png")
        figure.savefig(paths[-1], dpi=110)
    return paths
