"""Pictures and tables of a fine-tuned run: learning curves, and what became of each label."""

import csv
import logging
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.tracking.event_log import LOG_NAME, read_events
from pipeline.tracking.label_tables import LabelTable, read_label_tables
from pipeline.tracking.plots import MAX_MARKED_POINTS, Curve, draw_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DEV = "dev_"
LOSS = "loss/"
MAX_SHOWN_LABELS = 40
"""Of more labels, the pictures show the most frequent ones; the tables have all."""
MAX_NUMBERED = 15
"""A matrix of at most so many labels has its counts written into it."""
KEPT_FOLDER = "plots"
"""In the run's folder."""

logger = logging.getLogger(__name__)


def keep_plots(output: Path) -> None:
    """Draws the pictures and tables of the run in `output` into its folder.

    A failure is logged: the run, which is finished, is not lost for a picture.
    """
    folder = output / KEPT_FOLDER
    try:
        folder.mkdir(exist_ok=True)
        draw_curves(output, folder)
        draw_tasks(output, folder)
    except Exception as error:  # of matplotlib, of a full disk
        logger.warning("%s: not all pictures could be drawn: %r", folder, error)


def draw_tasks(output: Path, folder: Path) -> list[Path]:
    """Draws all pictures and tables of the tasks of the run in `output`: the files in `folder`."""
    return [*draw_learning_curves(output, folder), *draw_labels(output, folder)]


def draw_labels(output: Path, folder: Path) -> list[Path]:
    """Draws what the newest evaluation of the run in `output` says of each label of its tasks.

    Returns the files in `folder`, by task: ``labels-TASK.png`` and ``.csv`` (precision, recall, F1
    and counts), ``confusion-TASK.png`` and ``.csv``.
    """
    paths = []
    for task, (step, table) in read_label_tables(output).items():
        title = f"{task}, step {step:,}"
        paths += [_write_labels(table, folder / f"labels-{task}.csv")]
        paths += [_draw_bars(table, title, folder / f"labels-{task}.png")]
        if table.confusion is not None:
            paths += [_write_confusion(table, folder / f"confusion-{task}.csv")]
            paths += [_draw_confusion(table, title, folder / f"confusion-{task}.png")]
    return paths


def draw_learning_curves(output: Path, folder: Path) -> list[Path]:
    """Draws, for each task of the run in `output`, its loss in training and its dev metrics.

    Returns the files ``task-TASK.png`` in `folder`.
    """
    from matplotlib.figure import Figure

    paths = []
    for task, (losses, metrics) in _curves_of_tasks(output).items():
        figure = Figure(figsize=(9, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        figure.suptitle(task)
        _draw_curves(left, {"training loss": losses}, "loss")
        shares = {name: curve for name, curve in metrics.items() if _is_share(curve)}
        _draw_curves(right, shares or metrics, "on the dev file")
        if shares:
            low = min(min(curve.points()[1]) for curve in shares.values())
            right.set_ylim(min(low, 0.0) - 0.02, 1.02)
        paths.append(folder / f"task-{task}.png")
        figure.savefig(paths[-1], dpi=110)
    return paths


def _curves_of_tasks(output: Path) -> dict[str, tuple[Curve, dict[str, Curve]]]:
    losses: dict[str, Curve] = defaultdict(Curve)
    metrics: dict[str, dict[str, Curve]] = defaultdict(lambda: defaultdict(Curve))
    for event, _ in read_events(output / LOG_NAME):
        if event["kind"] != "metrics":
            continue
        for name, value in event["values"].items():
            kind, _, task = name.partition("/")
            if kind.startswith(DEV) and task:
                metrics[task][kind.removeprefix(DEV)].add(event["step"], value)
            elif name.startswith(LOSS):
                losses[task].add(event["step"], value)
    return {task: (losses[task], found) for task, found in metrics.items()}


def _is_share(curve: Curve) -> bool:
    """Whether a metric lies between -1 and 1, as accuracies, F1 and correlations do."""
    return all(abs(value) <= 1 for value in curve.points()[1])


def _draw_curves(axes: "Axes", curves: Mapping[str, Curve], title: str) -> None:
    for name, curve in curves.items():
        steps, values = curve.points()
        marker = "." if len(steps) < MAX_MARKED_POINTS else None
        axes.plot(steps, values, label=name.replace("_", " "), marker=marker)
    axes.set_xlabel("optimizer step")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()


def _write_labels(table: LabelTable, path: Path) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = ("label", "precision", "recall", "f1", "labelled", "predicted", "right")
        writer.writerow(names)
        for number, label in enumerate(table.labels):
            shares = (table.precision[number], table.recall[number], table.f1[number])
            texts = ("" if np.isnan(share) else f"{share:.4f}" for share in shares)
            counts = (table.num_labelled, table.num_predicted, table.num_right)
            writer.writerow([label, *texts, *(int(one[number]) for one in counts)])
    return path


def _write_confusion(table: LabelTable, path: Path) -> Path:
    assert table.confusion is not None
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["label \\ predicted", *table.labels])
        for label, counts in zip(table.labels, table.confusion.tolist(), strict=True):
            writer.writerow([label, *counts])
    return path


def _shown(table: LabelTable) -> tuple[list[int], str]:
    """(the numbers of the labels that a picture has, what its title says of the others)."""
    size = len(table.labels)
    if size <= MAX_SHOWN_LABELS:
        return list(range(size)), ""
    frequent = np.argsort(-table.num_labelled, kind="stable")[:MAX_SHOWN_LABELS]
    return sorted(frequent.tolist()), f" ({MAX_SHOWN_LABELS} most frequent of {size:,} labels)"


def _draw_bars(table: LabelTable, title: str, path: Path) -> Path:
    from matplotlib.figure import Figure

    shown, note = _shown(table)
    places = np.arange(len(shown))
    figure = Figure(figsize=(8, 1.6 + 0.45 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(("precision", "recall", "f1")):
        values = np.nan_to_num(getattr(table, name)[shown])
        shift = (number - 1) * 0.27
        label = "F1" if name == "f1" else name
        axes.barh(places + shift, values, height=0.25, label=label)
    names = [f"{_short(table.labels[n])}  ({table.num_labelled[n]:,})" for n in shown]
    axes.set_yticks(places, names)
    axes.set_ylim(len(shown) - 0.5, -0.5)  # the first label at the top
    axes.set_axisbelow(True)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share (in brackets: items with the label)")
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(title + note)
    figure.legend(loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=110)
    return path


def _draw_confusion(table: LabelTable, title: str, path: Path) -> Path:
    from matplotlib.figure import Figure

    assert table.confusion is not None
    shown, note = _shown(table)
    counts = table.confusion[np.ix_(shown, shown)]
    rows = np.maximum(table.num_labelled[shown][:, None], 1)
    shares = counts / rows
    size = 3.2 + 0.42 * len(shown)
    figure = Figure(figsize=(size + 1.2, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [_short(table.labels[number]) for number in shown]
    axes.set_xticks(range(len(shown)), names, rotation=90)
    axes.set_yticks(range(len(shown)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    axes.set_title(title + note)
    if len(shown) <= MAX_NUMBERED:
        for row, column in np.ndindex(*counts.shape):
            colour = "white" if shares[row, column] > 0.6 else "black"
            count = f"{counts[row, column]:,}"
            axes.text(column, row, count, ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, ax=axes, label="share of the items with the label", shrink=0.8)
    figure.savefig(path, dpi=110)
    return path


def _short(name: str) -> str:
    return name if len(name) <= 30 else name[:27] + "..."
