"""Averages checkpoints: ``python -m pipeline.average RUN --last N --output FOLDER``.

The weights of the newest checkpoints of a run, or of any checkpoints of the same model (decays of
one stable run on different data, for example), become the only checkpoint of a new folder. It can
be evaluated and exported (``FOLDER/config.yaml``), fine-tuned, and started from (``start: {type:
run, path: FOLDER}``). Its manifest names the checkpoints, their weights and their hashes.
"""

import argparse
import logging
from pathlib import Path

from configs import command
from configs.writable import check_folder
from pipeline.averaging.sources import find_checkpoints, with_weights

logger = logging.getLogger(__name__)


def main() -> None:
    """``python -m pipeline.average RUN|CHECKPOINT ... --output FOLDER``."""
    parser = command.plain_parser("Average the weights of checkpoints into a new run folder.")
    parser.add_argument(
        "sources",
        nargs="+",
        type=Path,
        metavar="RUN|CHECKPOINT",
        help="folders of runs (the newest checkpoints of each), or of checkpoints",
    )
    parser.add_argument("--output", type=Path, required=True, help="the new folder")
    parser.add_argument(
        "--last", type=int, default=1, help="newest checkpoints of each run (default: 1)"
    )
    parser.add_argument(
        "--weights",
        metavar="W,W,...",
        type=_numbers,
        help="a weight for each checkpoint, in their order (default: equal ones)",
    )
    parser.add_argument(
        "--decay",
        type=float,
        help="exponential weights: each checkpoint weighs this times the one after it",
    )
    arguments = parser.parse_args()
    check_folder(arguments.output, "--output")
    checkpoints = find_checkpoints(arguments.sources, arguments.last)
    sources = with_weights(checkpoints, arguments.weights, arguments.decay)
    from pipeline.averaging.average import average  # late: reading bad arguments needs no torch

    result = average(sources, arguments.output)
    for record in result.manifest.averaged or ():
        logger.info("%s: step %s, weight %.4g", record.path, f"{record.step:,}", record.weight)
    logger.info("%s: the average of %d checkpoints", result.path, len(sources))


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: numbers with commas between them") from None


if __name__ == "__main__":
    command.run(main)
