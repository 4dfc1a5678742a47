"""Registers an exported model in MLflow: ``python -m pipeline.registry CONFIG.yaml --name NAME``.

The model is logged with its run in MLflow's transformers flavour, with the parity error that the
export measured. An export without a parity record, with too large an error, changed since, or of an
older checkpoint than the newest is refused.
"""

import logging
import tempfile
from pathlib import Path

from configs import command
from configs.load import UserError
from configs.redact import redact
from pipeline.checkpoint.manifest import newest_step
from pipeline.finetuning.run_config import load_run
from pipeline.hugging_face.folder import EXPORT_NAME, Parity, load_exported, require_parity
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import checkpoints_folder
from pipeline.tracking.event_log import LOG_NAME, read_events
from pipeline.tracking.mlflow_run import MlflowRun, save_transformers_model
from pipeline.tracking.sender import tracking_uri

logger = logging.getLogger(__name__)


def main() -> None:
    """Registers the export of the run."""
    parser = command.parser("Register a run's exported model in MLflow.")
    parser.add_argument("--name", help="name of the registered model (default: the run's name)")
    arguments = parser.parse_args()
    config = load_run(arguments.config, arguments.overrides)
    if not isinstance(config, TrainConfig):
        logger.info("%s: a fine-tuning run; only pretrained models are registered", config.output)
        return
    name = arguments.name or config.name
    version, parity = register(config, name)
    logger.info(
        "%s version %s in %s: step %d, parity error %.1e",
        *(name, version, redact(tracking_uri(config))),
        *(parity.source.step, parity.largest_difference),
    )


def register(config: TrainConfig, name: str) -> tuple[str, Parity]:
    """(version, parity record) of the newly registered model.

    Raises UserError for an export whose parity is not proven.
    """
    folder = config.output / EXPORT_NAME
    parity = require_parity(folder)
    newest = newest_step(checkpoints_folder(config))
    if parity.source.step != newest:
        raise UserError(
            f"{folder}: made from step {parity.source.step}, but the newest checkpoint is of step "
            f"{newest}: run 'python -m pipeline.export' again"
        )
    log = config.output / LOG_NAME
    if not log.exists():
        raise UserError(f"{log}: no such record; only a model of a recorded run can be registered")
    key = next(event["key"] for event, _ in read_events(log))
    run = MlflowRun(tracking_uri(config), config.tracking.experiment, key, config.name)
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "model"
        save_transformers_model(*load_exported(folder), target)
        source = run.log_folder(target, f"model-step-{newest:08d}")
    tags = {
        "step": newest,
        "parity_error": parity.largest_difference,
        "output": folder.resolve(),
    }
    description = (
        f"Step {newest} of run {config.name}; its logits differ by at most "
        f"{parity.largest_difference:.1e} from the trained model's."
    )
    return run.register(name, source, tags, description), parity


if __name__ == "__main__":
    command.run(main)
