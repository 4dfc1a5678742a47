"""Registers an exported model in MLflow: ``python -m pipeline.registry CONFIG.yaml --name NAME``.

The model is logged with its run in MLflow's transformers flavour, with the parity error that the
export measured. An export without a parity record, with too large an error, with files that changed
since, or of weights other than the checkpoint's is refused; contents are compared by sha256.
"""

import logging
import tempfile
import time
from pathlib import Path

from configs import command
from configs.load import UserError
from configs.redact import redact
from pipeline.checkpoint.choice import add_choice, choose_checkpoint
from pipeline.checkpoint.manifest import Checkpoint
from pipeline.finetuning.run_config import load_run
from pipeline.hugging_face.folder import EXPORT_NAME, Parity, check_export, load_exported
from pipeline.model_cards.run_history import describe_average
from pipeline.run.config import RunConfig, TrainConfig
from pipeline.run.folder_identity import identify
from pipeline.run.run_folder import checkpoints_folder
from pipeline.run.trained_model import check_config
from pipeline.tracking.event_log import LOG_NAME
from pipeline.tracking.mlflow_run import MlflowRun, save_transformers_model
from pipeline.tracking.sent import run_id_of
from pipeline.tracking.tracked_run import tracking_uri

logger = logging.getLogger(__name__)


def main() -> None:
    """Registers the export of the run."""
    parser = command.parser("Register a run's exported model in MLflow.")
    parser.add_argument("--name", help="name of the registered model (default: the run's name)")
    add_choice(parser)
    arguments = parser.parse_args()
    config = load_run(arguments.config, arguments.overrides)
    checkpoint = choose_checkpoint(checkpoints_folder(config), arguments.step, arguments.best)
    name, folder = arguments.name or config.name, config.output / EXPORT_NAME
    register_export(config, name, checkpoint, folder)


def register_export(config: RunConfig, name: str, checkpoint: Checkpoint, folder: Path) -> None:
    """Registers the export of `checkpoint` in `folder`, if it is of a pretraining run."""
    if not isinstance(config, TrainConfig):
        logger.info("%s: a fine-tuning run; only pretrained models are registered", config.output)
        return
    version, parity = register(config, name, checkpoint, folder)
    logger.info(
        "%s version %s in %s: step %d, parity error %.1e",
        *(name, version, redact(tracking_uri(config))),
        *(parity.source.step, parity.largest_difference),
    )


def register(
    config: TrainConfig, name: str, checkpoint: Checkpoint, folder: Path
) -> tuple[str, Parity]:
    """(version, parity record) of the newly registered model, the export of `checkpoint`.

    Raises UserError for an export whose parity is not proven, or that is of another checkpoint, and
    for a config that disagrees with that.
    """
    check_config(config, checkpoint)
    parity = check_export(folder, checkpoint)
    step = checkpoint.manifest.step
    run = _run_of(config, checkpoint)
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "model"
        save_transformers_model(*load_exported(folder), target)
        source = run.log_folder(target, f"model-step-{step:08d}")
    tags = {
        "step": step,
        "parity_error": parity.largest_difference,
        "output": folder.resolve(),
    }
    averaged = checkpoint.manifest.averaged
    what = f"Step {step} of run {config.name}"
    if averaged is not None:
        what = f"The average of {describe_average(averaged)}"
    description = (
        f"{what}; its logits differ by at most "
        f"{parity.largest_difference:.1e} from the trained model's."
    )
    return run.register(name, source, tags, description), parity


def _run_of(config: TrainConfig, checkpoint: Checkpoint) -> MlflowRun:
    """The run in MLflow that the model is of.

    An average was never trained, so it has no record: it gets a run of its own, which names its
    checkpoints and their runs.
    """
    uri, experiment = tracking_uri(config), config.tracking.experiment
    manifest = checkpoint.manifest
    if manifest.averaged is not None:
        assert manifest.sha256 is not None
        run = MlflowRun(uri, experiment, manifest.sha256, f"{config.output.name} (average)")
        for number, part in enumerate(manifest.averaged):
            values = part.model_dump()
            # A checkpoint that was saved before MLflow was reached does not have it.
            values["tracking_run_id"] = part.tracking_run_id or run_id_of(
                Path(part.path).parents[1]
            )
            run.log_params({f"averaged.{number}.{key}": each for key, each in values.items()})
        run.set_status("FINISHED", int(time.time() * 1000))
        return run
    log = config.output / LOG_NAME
    if not log.exists():
        raise UserError(f"{log}: no such record; only a model of a recorded run can be registered")
    return MlflowRun(uri, experiment, identify(config.output).id, config.name)


if __name__ == "__main__":
    command.run(main)
