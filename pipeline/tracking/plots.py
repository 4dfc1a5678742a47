"""Loss curves of a run as pictures, drawn from its own record."""

from collections import defaultdict
from pathlib import Path

from pipeline.tracking.event_log import LOG_NAME, read_events

CURVES = {
    "loss": ("loss", "heldout_loss", "heldout_unigram_loss"),
    "accuracy": ("accuracy", "heldout_accuracy"),
    "learning_rate": ("learning_rate",),
    "gradient_norm": ("gradient_norm",),
}
"""Figure name, and the metrics drawn in it."""


def draw_curves(output: Path) -> list[Path]:
    """The figures of the run in `output`, as PNG files in its folder ``figures``."""
    from matplotlib.figure import Figure

    series: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
    for event, _ in read_events(output / LOG_NAME):
        if event["kind"] == "metrics":
            for name, value in event["values"].items():
                series[name][0].append(event["step"])
                series[name][1].append(value)
    folder = output / "figures"
    folder.mkdir(exist_ok=True)
    paths = []
    for title, names in CURVES.items():
        drawn = [name for name in names if name in series]
        if not drawn:
            continue
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        for name in drawn:
            marker = "." if len(series[name][0]) < 50 else None
            axes.plot(*series[name], label=name, marker=marker)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(title)
        axes.grid(alpha=0.3)
        axes.legend()
        paths.append(folder / f"{title}.png")
        figure.savefig(paths[-1], dpi=110)
    return paths
