"""Draws docs/images/demo_loss.png: the losses of the demo's two models on the same rows.

``python -m docs.demo_loss runs/demo runs/demo_roberta`` after both runs.
"""

from pathlib import Path

from configs import command
from pipeline.tracking.event_log import metric_points

PATH = Path(__file__).resolve().parent / "images" / "demo_loss.png"
LABELS = ("ModernBERT's kind, Muon (demo.yaml)", "RoBERTa, AdamW (demo_roberta.yaml)")
SMOOTHED_STEPS = 50


def smoothed(points: list[tuple[int, float]]) -> list[tuple[float, float]]:
    """Means of `SMOOTHED_STEPS` steps each."""
    groups = [points[at : at + SMOOTHED_STEPS] for at in range(0, len(points), SMOOTHED_STEPS)]
    return [
        (sum(step for step, _ in group) / len(group), sum(value for _, value in group) / len(group))
        for group in groups
    ]


def draw(outputs: list[Path]) -> None:
    """Writes the picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for number, (output, label) in enumerate(zip(outputs, LABELS, strict=True)):
        losses = metric_points(output, "loss", "heldout_loss", "heldout_unigram_loss")
        color = f"C{number}"
        if not number:
            unigram = losses["heldout_unigram_loss"][-1][1]
            axes.axhline(unigram, color="gray", linestyle=":", label="unigram model")
        axes.plot(*zip(*smoothed(losses["loss"]), strict=True), color=color, alpha=0.35)
        held_out = losses["heldout_loss"]
        name = f"{label}: {held_out[-1][1]:.2f}"
        axes.plot(*zip(*held_out, strict=True), color=color, marker="o", markersize=3, label=name)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss, nats per masked token")
    axes.set_title("Held out (dots) and training (pale), 40 % masks", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(PATH, dpi=110)


def main() -> None:
    """Draws the picture."""
    parser = command.plain_parser("Draw the loss curves of the demo's two models.")
    parser.add_argument("outputs", type=Path, nargs=2, metavar="RUN", help="folders of the runs")
    draw(parser.parse_args().outputs)


if __name__ == "__main__":
    command.run(main)
