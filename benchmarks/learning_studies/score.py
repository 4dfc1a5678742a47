"""Scores a checkpoint in a process of its own: ``python -m benchmarks.learning_studies.score``."""

import json
from pathlib import Path

from configs import command
from data_prep.dataset.atomic import write_atomic
from model.objectives import MaskedLanguageModelConfig
from pipeline.checkpoint.choice import choose_checkpoint
from pipeline.evaluation.as_trained import evaluate_checkpoint
from pipeline.finetuning.run_config import load_run
from pipeline.run.run_folder import checkpoints_folder


def main() -> None:
    """Writes the scores as JSON."""
    parser = command.parser("Score a checkpoint of a study's run.")
    parser.add_argument("--best", action="store_true", help="the checkpoint with the best score")
    parser.add_argument("--mask-rate", type=float, help="share of masks (default: the run's)")
    parser.add_argument("--result", type=Path, required=True, help="the JSON file to write")
    arguments = parser.parse_args()
    config = load_run(arguments.config, arguments.overrides)
    checkpoint = choose_checkpoint(checkpoints_folder(config), best=arguments.best)
    objective = None
    if arguments.mask_rate is not None:  # independent masks, so that objectives compare
        objective = MaskedLanguageModelConfig(mask_rate=arguments.mask_rate)
    scores = evaluate_checkpoint(config, checkpoint, objective)
    write_atomic(arguments.result, json.dumps(scores, indent=1) + "\n")


if __name__ == "__main__":
    command.run(main)
