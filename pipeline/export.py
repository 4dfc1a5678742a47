"""Exports a run to Hugging Face: ``python -m pipeline.export CONFIG.yaml key.sub=value ...``.

A pretraining run becomes the folder ``hf`` in its output folder, a fine-tuning run one folder
``hf/TASK`` for each task. A folder appears under its name only after its outputs were compared with
those of the trained model.
"""

import logging
from pathlib import Path

from configs import command
from configs.load import UserError
from pipeline.checkpoint.manifest import Checkpoint, find_checkpoint
from pipeline.data.shard_cache import open_data_set
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.run_config import load_run
from pipeline.hugging_face.folder import EXPORT_NAME, is_exported
from pipeline.run.config import RunConfig, TrainConfig
from pipeline.run.run_folder import checkpoints_folder
from pipeline.run.trained_model import read_trained

logger = logging.getLogger(__name__)


def main() -> None:
    """Exports the newest checkpoint of the run."""
    parser = command.parser("Export the newest checkpoint of a run to Hugging Face.")
    arguments = parser.parse_args()
    config = load_run(arguments.config, arguments.overrides)
    checkpoint, problems = find_checkpoint(checkpoints_folder(config))
    for problem in problems:
        logger.warning("%s; skipped", problem)
    if checkpoint is None:
        raise UserError(f"{checkpoints_folder(config)}: no complete checkpoint; train first")
    differences = export_run(config, checkpoint, config.output / EXPORT_NAME)
    step = checkpoint.manifest.step
    for folder, difference in differences.items():
        logger.info(
            "%s: step %d exported; largest difference to the trained model %.1e (fp32)",
            *(folder, step, difference),
        )
    if not differences:
        logger.info("%s: step %d is exported already", config.output / EXPORT_NAME, step)


def export_run(config: RunConfig, checkpoint: Checkpoint, folder: Path) -> dict[Path, float]:
    """Exports `checkpoint` to `folder`, if that is not done already.

    Returns the largest difference of an output to the trained model, by exported folder. Raises
    UserError for a config that disagrees with the checkpoint.
    """
    # Late: reading a bad config or an existing export needs no torch.
    if isinstance(config, FinetuneConfig):
        from pipeline.finetuning.export import export_tasks

        tasks = export_tasks(config, checkpoint, folder)
        return {folder / name: difference for name, difference in tasks.items()}
    assert isinstance(config, TrainConfig)
    trained = read_trained(config, checkpoint, lambda: _beside_rows(config))
    if is_exported(folder, checkpoint):
        return {}
    from pipeline.pretraining.export import export

    return {folder: export(trained, folder)}


def _beside_rows(config: TrainConfig) -> Path:
    """The tokenizer of the data set, which older checkpoints do not carry."""
    return config.data.path / open_data_set(config.data).tokenizer.path


if __name__ == "__main__":
    command.run(main)
