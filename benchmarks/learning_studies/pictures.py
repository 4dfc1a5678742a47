"""The pictures of docs/quality.md."""

from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.learning_studies import ablations, continued, pretraining
from benchmarks.learning_studies.linear import SAME_TEXT
from benchmarks.learning_studies.readings import losses, test_scores
from benchmarks.learning_studies.results import Results
from benchmarks.learning_studies.tasks import TASKS

PICTURES = {
    pretraining.STUDY: ("quality_tasks.png", "Test accuracy of each task and start"),
    ablations.STUDY: ("quality_ablations.png", "Loss of every variant"),
    continued.STUDY: (
        "quality_continued.png",
        "Held-out loss of the continued run and of those from scratch",
    ),
}
"""By study: file and description."""


def draw_all(folder: Path, images: Path) -> dict[str, str]:
    """Draws the pictures whose results are there; by study, what shows each in Markdown."""
    draw = {
        pretraining.STUDY: draw_tasks,
        ablations.STUDY: draw_ablations,
        continued.STUDY: draw_continued,
    }
    shown = {}
    for study, (name, description) in PICTURES.items():
        images.mkdir(exist_ok=True)
        if draw[study](Results(folder, study), images / name):
            shown[study] = f"![{description}]({images.name}/{name})"
    return shown


def _axes(title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    return figure, axes


def draw_tasks(results: Results, path: Path) -> bool:
    """Test accuracy of each task and start, a dot for each seed; False without results."""
    names = [name for name in TASKS if test_scores(results, name, "pretrained")]
    if not names:
        return False
    figure, axes = _axes("Test accuracy; a dot for each seed, a bar for the linear model")
    for number, start in enumerate(pretraining.STARTS):
        points = [
            (place + 0.2 * (number - 0.5), 100 * value)
            for place, name in enumerate(names)
            for value in test_scores(results, name, start)
        ]
        axes.scatter(*zip(*points, strict=True), label=start, color=f"C{number}")
    for place, name in enumerate(names):
        linear = results.get(f"linear-{name}") or {}
        if SAME_TEXT in linear:
            axes.hlines(100 * linear[SAME_TEXT], place - 0.3, place + 0.3, color="gray")
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("%")
    axes.legend()
    figure.savefig(path, dpi=110)
    return True


def draw_ablations(results: Results, path: Path) -> bool:
    """Loss of every variant, a dot for each seed; False without results."""
    found = results.all()
    names = [name for name in ablations.VARIANTS if losses(found, name)]
    if not names:
        return False
    figure, axes = _axes("Held-out loss at 15 % masks, nats; a dot for each seed")
    for place, name in enumerate(reversed(names)):
        values = losses(found, name)
        axes.scatter(values, [place] * len(values), color="C0")
        axes.plot(median(values), place, marker="|", markersize=14, color="C1")
    axes.set_yticks(range(len(names)), list(reversed(names)))
    figure.savefig(path, dpi=110)
    return True


def draw_continued(results: Results, path: Path) -> bool:
    """The held-out curves of all runs; False without results."""
    found = results.all()
    if "rows" not in found:
        return False
    figure, axes = _axes("Held-out loss on the domain, nats per masked token")
    for name in (*(name for name in found if name.startswith("scratch-")), "continued"):
        values = found[name]
        points = [(step * continued.BATCH_ROWS, loss) for step, loss in values["curve"]]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    axes.set_xlabel("rows")
    axes.legend()
    figure.savefig(path, dpi=110)
    return True
