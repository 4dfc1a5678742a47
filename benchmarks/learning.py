r"""What encoders learn here: studies of quality, not of speed. Results: docs/quality.md.

    python -m benchmarks.learning prepare FOLDER            # corpus, tasks (apt-get, pip)
    nice python -m benchmarks.learning pretraining FOLDER   # or another study, or all
    python -m benchmarks.learning report FOLDER             # docs/quality.md from the results

Each result is a JSON file in FOLDER/results; what is there is not repeated, and a run that was
interrupted resumes at its last checkpoint: start the same command again. All runs are in fp32.

| study | runs | hours of processor time, on a fast core |
|---|---|---|
| pretraining | 10.4 M parameters; 4 tasks x 2 starts x 4 fine-tunings | 1.0 + 1.3 |
| few-labels | the same fine-tunings with 200 examples of each task | 0.6 |
| ablations | 11 variants of a network of 3 x 128, two or three seeds each | 1.2 |
| data | the same on 3 other forms of the corpus, two seeds each | 0.3 |
| continued | a model of 22 M parameters on one domain, three learning rates from scratch | 1.1 |

``--scale 0.01`` shortens all runs a hundredfold, to see that they work. Give each scale a folder
of its own.
"""

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import psutil

from benchmarks.data_corpus import make_corpus
from benchmarks.learning_studies import (
    ablations,
    continued,
    data_quality,
    few_labels,
    pretraining,
    report,
)
from benchmarks.learning_studies.tasks import prepare_tasks
from configs import command
from configs.load import UserError

STUDIES: dict[str, Callable[[Path, float], None]] = {
    pretraining.STUDY: pretraining.run,
    few_labels.STUDY: few_labels.run,
    ablations.STUDY: ablations.run,
    data_quality.STUDY: data_quality.run,
    continued.STUDY: continued.run,
}


def main() -> None:
    """``python -m benchmarks.learning STUDY FOLDER``."""
    parser = command.plain_parser((__doc__ or "").splitlines()[0])
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "what", choices=["prepare", *STUDIES, "all", "report"], help="a study, or what to do"
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="of data, runs and results")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the length of all runs")
    parser.add_argument("--page", type=Path, help="the page to write, docs/quality.md if not given")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    if arguments.scale <= 0:
        raise UserError(f"--scale {arguments.scale}: give a number above 0, such as 0.01")
    if arguments.what == "report":
        report.write(folder, arguments.page or report.PAGE)
        return
    check_scale(folder, arguments.scale)
    signal.signal(signal.SIGTERM, _stop_children)
    make_corpus(folder / "raw")
    prepare_tasks(folder / "tasks")
    for name in STUDIES if arguments.what == "all" else [arguments.what]:
        if name in STUDIES:
            STUDIES[name](folder, arguments.scale)


def check_scale(folder: Path, scale: float) -> None:
    """Raises UserError if `folder` has results of another scale."""
    path = folder / "scale.txt"
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists() and float(path.read_text()) != scale:
        raise UserError(
            f"{folder} has results of --scale {path.read_text().strip()}, not {scale:g}: "
            "give another folder"
        )
    path.write_text(f"{scale!r}\n")


def _stop_children(number: int, frame: FrameType | None) -> None:
    """Runs save a checkpoint when they get a stop signal; the studies then end with their error."""
    for process in psutil.Process().children():
        process.terminate()
    sys.exit(128 + number)


if __name__ == "__main__":
    command.run(main)
