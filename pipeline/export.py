"""Exports a run to Hugging Face: ``python -m pipeline.export CONFIG.yaml key.sub=value ...``.

A pretraining run becomes the folder ``hf`` in its output folder, a fine-tuning run one folder
``hf/TASK`` for each task. A folder appears under its name only after its outputs were compared with
those of the trained model.
"""

import logging
from pathlib import Path

from configs import command, folder_lock
from configs.load import UserError
from configs.writable import check_folder
from pipeline.checkpoint.choice import add_choice, choose_checkpoint
from pipeline.checkpoint.manifest import Checkpoint
from pipeline.data.shard_cache import open_data_set
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.run_config import load_result
from pipeline.hugging_face.folder import EXPORT_NAME
from pipeline.hugging_face.options import POOLINGS, SENTENCE_ENCODER, ExportOptions, check_target
from pipeline.run.config import RunConfig, TrainConfig
from pipeline.run.run_folder import checkpoints_folder, is_done
from pipeline.run.trained_model import read_trained

logger = logging.getLogger(__name__)


def main() -> None:
    """Exports a checkpoint of the run."""
    arguments = _parser().parse_args()
    config = load_result(arguments.config, arguments.overrides)
    if (
        arguments.register
        and isinstance(config, TrainConfig)
        and config.objective.type == "replaced_tokens"
    ):
        raise UserError(
            "--register takes models with a masked-language-model head, which the discriminator of "
            "replaced_tokens has not: leave --register out"
        )
    options = ExportOptions(arguments.sentence_transformers, arguments.onnx, arguments.force)
    folder = arguments.output or config.output / EXPORT_NAME
    if arguments.output is not None:
        for target in _targets(config, folder.resolve()):
            check_target(target)
    place = folder.resolve()
    for written in (place, place.parent):  # also the lock and an unfinished export
        check_folder(written, "--output" if arguments.output else "output")
    checkpoint = choose_checkpoint(checkpoints_folder(config), arguments.step, arguments.best)
    if not is_done(config):
        logger.warning("%s: the run is not finished", config.output)
    # In a folder of its own: that of the run is held by a training in progress.
    lock = folder_lock.hold(folder.with_name(f".{folder.name}-lock"))
    try:
        differences = export_run(config, checkpoint, folder, options)
    finally:
        lock.release()
    step = checkpoint.manifest.step
    for exported, difference in differences.items():
        logger.info(
            "%s: step %d exported; largest difference to the trained model %.1e (fp32)",
            *(exported, step, difference),
        )
    if not differences:
        logger.info(
            "%s: step %d is exported already, as it was (--force writes it again, with a card of "
            "today's record)",
            *(folder, step),
        )
    if arguments.register:
        from pipeline.registry import register_export

        register_export(config, config.name, checkpoint, folder)


def _parser() -> command.CommandParser:
    parser = command.parser("Export a checkpoint of a run to Hugging Face.")
    add_choice(parser)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="the folder to write (default: hf in the folder of the run)",
    )
    parser.add_argument(
        "--sentence-transformers",
        choices=POOLINGS,
        help="also write the files of sentence-transformers, with the vector of the first token or "
        "the mean of all (default: pretraining as model.pooler, fine-tuning none)",
    )
    parser.add_argument("--onnx", action="store_true", help="also write model.onnx")
    parser.add_argument(
        "--force",
        action="store_true",
        help="write a folder again that holds this export already, for a card of today's record",
    )
    parser.add_argument(
        "--register",
        action="store_true",
        help="also register the exported model in MLflow, under the name of the run (fine-tuning: "
        "NAME-TASK, for each task)",
    )
    return parser


def export_run(
    config: RunConfig, checkpoint: Checkpoint, folder: Path, options: ExportOptions | None = None
) -> dict[Path, float]:
    """Exports `checkpoint` to `folder`, if that is not done already.

    Returns the largest difference of an output to the trained model, by exported folder. Raises
    UserError for a config that disagrees with the checkpoint, and for missing optional packages.
    """
    options = options or ExportOptions()
    options.check_packages()
    # Late: reading a bad config or an existing export needs no torch.
    if isinstance(config, FinetuneConfig):
        from pipeline.finetuning.export import export_tasks

        tasks = export_tasks(config, checkpoint, folder, options)
        return {folder / name: difference for name, difference in tasks.items()}
    assert isinstance(config, TrainConfig)
    trained = read_trained(config, checkpoint, lambda: _beside_rows(config))
    pooling = options.pooling or trained.model.pooler.type
    if options.are_exported(folder, checkpoint, pooling):
        return {}
    if trained.config.objective.type == "replaced_tokens":
        from pipeline.pretraining.discriminator_export import export_discriminator

        return {folder: export_discriminator(trained, folder, options)}
    from pipeline.pretraining.export import export

    return {folder: export(trained, folder, options)}


def _targets(config: RunConfig, folder: Path) -> list[Path]:
    """The folders that an export to `folder` may replace."""
    if isinstance(config, FinetuneConfig):
        return [folder / name for name in (*config.tasks, SENTENCE_ENCODER)]
    return [folder]


def _beside_rows(config: TrainConfig) -> Path:
    """The tokenizer of the data set, which older checkpoints do not carry."""
    return config.data.path / open_data_set(config.data).tokenizer.path


if __name__ == "__main__":
    command.run(main)
