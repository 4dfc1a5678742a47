"""Scores a checkpoint in a process of its own: ``python -m benchmarks.learning_studies.score``."""

import json
import logging
from functools import partial
from pathlib import Path

from configs import command
from data_prep.dataset.atomic import write_atomic
from pipeline.checkpoint.choice import choose_checkpoint
from pipeline.checkpoint.manifest import Checkpoint
from pipeline.data.shard_cache import open_data_set
from pipeline.evaluate import evaluate_checkpoint
from pipeline.finetuning.run_config import load_run
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import checkpoints_folder
from pipeline.run.trained_model import read_trained

logger = logging.getLogger(__name__)


def main() -> None:
    """Writes the scores as JSON."""
    parser = command.parser("Score a checkpoint of a study's run.")
    parser.add_argument("--best", action="store_true", help="the checkpoint with the best score")
    parser.add_argument("--mask-rate", type=float, help="share of masks (default: the run's)")
    parser.add_argument("--result", type=Path, required=True, help="the JSON file to write")
    arguments = parser.parse_args()
    config = load_run(arguments.config, arguments.overrides)
    checkpoint = choose_checkpoint(checkpoints_folder(config), best=arguments.best)
    if arguments.mask_rate is None:
        scores = evaluate_checkpoint(config, checkpoint)
    else:
        assert isinstance(config, TrainConfig)
        scores = heldout_scores_at(config, checkpoint, arguments.mask_rate)
    write_atomic(arguments.result, json.dumps(scores, indent=1) + "\n")


def heldout_scores_at(
    config: TrainConfig, checkpoint: Checkpoint, mask_rate: float
) -> dict[str, float]:
    """Held-out metrics with independent masks of `mask_rate`, so that objectives compare."""
    from model.objectives import MaskedLanguageModelConfig
    from model.parallel.grid import single_rank_grid
    from pipeline.data.heldout import load_heldout
    from pipeline.data.loader import special_ids
    from pipeline.engine.evaluation import PlainModel, heldout_scores_of_heads
    from pipeline.pretraining.heldout_metrics import heldout_metrics
    from pipeline.pretraining.model import build_pretraining_model
    from pipeline.pretraining.step import MaskedMicroBatch

    manifest = open_data_set(config.data)
    trained = read_trained(config, checkpoint, lambda: config.data.path / manifest.tokenizer.path)
    objective = MaskedLanguageModelConfig(mask_rate=mask_rate)
    rows = config.evaluation.rows_per_source
    heldout = load_heldout(config.data, manifest, objective, rows)
    with single_rank_grid() as grid:
        special = special_ids(manifest)
        module = build_pretraining_model(trained.config, trained.model, special, grid, config.seed)
        model = PlainModel.of(module, grid, trained.checkpoint)
        micro_batch = partial(MaskedMicroBatch, is_causal=False)
        scores = heldout_scores_of_heads(model, heldout, config.batch.micro_rows, micro_batch)
    return heldout_metrics(heldout, scores)


if __name__ == "__main__":
    command.run(main)
