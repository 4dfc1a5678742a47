"""Writes a report of training runs: ``python -m pipeline.report RUN ...``.

One HTML page without external files: curves of all metrics, a timeline of launches, rollbacks and
checkpoints, data, start weights and settings; several runs side by side. It is made from the runs'
folders alone, also while they train, and from copies. Beside it, a CSV file has the points of the
curves.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from configs import command
from configs.load import UserError
from configs.writable import check_file
from data_prep.dataset.atomic import write_atomic
from pipeline.reporting.csv_file import write_points, write_steps
from pipeline.reporting.positions import AXES
from pipeline.reporting.render import render
from pipeline.reporting.run_record import read_run

PAGE_NAME = "report.html"

logger = logging.getLogger(__name__)


def main() -> None:
    """``python -m pipeline.report RUN ... --output FILE.html --x AXIS --every-step``."""
    parser = command.plain_parser("Write an HTML page and a CSV file on training runs.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.html",
        help="the page (default, for one run: RUN/report.html); the CSV files stand beside it",
    )
    parser.add_argument(
        "--x", choices=AXES, default="step", help="the x axis of the charts (default: step)"
    )
    parser.add_argument(
        "--every-step",
        action="store_true",
        help="also write FILE.steps.csv, with every step and metric in full",
    )
    arguments = parser.parse_args()
    output = _output(arguments)
    check_file(output, "--output")
    write_report(arguments.runs, output, arguments.x, arguments.every_step)


def write_report(folders: Sequence[Path], output: Path, axis: str, every_step: bool) -> None:
    """Writes the page and CSV files on the runs in `folders`; see `main`.

    Raises UserError that names every folder without a run.
    """
    runs, errors = [], []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except UserError as error:
            errors.append(str(error))
    if errors:
        raise UserError("\n".join(errors))
    write_atomic(output, render(runs, axis))
    points = output.with_suffix(".csv")
    write_points(points, runs)
    logger.info("%s, and its values in %s", output, points)
    if every_step:
        steps = output.with_suffix(".steps.csv")
        write_steps(steps, runs)
        logger.info("every step: %s", steps)


def _output(arguments: argparse.Namespace) -> Path:
    """Where the page is written."""
    runs: list[Path] = arguments.runs
    if len({run.resolve() for run in runs}) < len(runs):
        raise UserError("a run is given twice")
    output: Path | None = arguments.output
    if output is None:
        if len(runs) > 1:
            raise UserError("several runs: say where the page goes with --output FILE.html")
        return runs[0] / PAGE_NAME
    if output.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output {output}: the name of the page has to end with .html")
    return output


if __name__ == "__main__":
    command.run(main)
