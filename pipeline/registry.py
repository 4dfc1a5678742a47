"""Registers an exported model in MLflow: ``python -m pipeline.registry CONFIG.yaml --name NAME``.

The model is logged with its run in the transformers flavour, with the parity error that the export
measured. An export without that proof, with too large an error, changed since, or of an older
checkpoint than the newest is refused.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from configs import command
from configs.load import UserError, load
from pipeline.checkpoint.manifest import newest_step
from pipeline.run.config import TrainConfig
from pipeline.tracking.event_log import LOG_NAME, read_events
from pipeline.tracking.lineage import redact
from pipeline.tracking.mlflow_run import MlflowRun, save_transformers_model
from pipeline.tracking.sender import tracking_uri

EXPORT_NAME = "hf"
PARITY_NAME = "parity.json"
WEIGHTS_NAME = "model.safetensors"
ERROR_KEY = "largest_logit_difference"


def main() -> None:
    """``python -m pipeline.registry CONFIG.yaml [--name NAME] key.sub=value ...``."""
    parser = command.parser("Register a run's exported model in MLflow.")
    parser.add_argument("--name", help="name of the registered model (default: the run's name)")
    arguments = parser.parse_args()
    config = load(arguments.config, TrainConfig, arguments.overrides)
    name = arguments.name or config.name
    version, parity = register(config, name)
    print(
        f"{name} version {version} in {redact(tracking_uri(config))}: step {parity['step']}, "
        f"parity error {parity[ERROR_KEY]:.1e}"
    )


def register(config: TrainConfig, name: str) -> tuple[str, dict[str, Any]]:
    """(version, parity record) of the newly registered model.

    Raises UserError for an export whose parity is not proven.
    """
    from pipeline.hugging_face.folder import PARITY_TOLERANCE, load_exported

    folder = config.output / EXPORT_NAME
    parity = read_parity(folder, PARITY_TOLERANCE)
    newest = newest_step(config)
    if parity["step"] != newest:
        raise UserError(
            f"{folder}: made from step {parity['step']}, but the newest checkpoint is of step "
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
    tags = {"step": newest, "parity_error": parity[ERROR_KEY], "output": folder.resolve()}
    description = (
        f"Step {newest} of run {config.name}; its logits differ by at most "
        f"{parity[ERROR_KEY]:.1e} from the trained model's."
    )
    return run.register(name, source, tags, description), parity


def read_parity(folder: Path, tolerance: float) -> dict[str, Any]:
    """The record of the parity check of the export in `folder`.

    Raises UserError where there is none, where it failed, and where the weights are newer.
    """
    path = folder / PARITY_NAME
    try:
        parity: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file: the model's parity was never checked; run 'python -m "
            "pipeline.export' first"
        ) from None
    error = parity[ERROR_KEY]
    if not error <= tolerance:
        raise UserError(
            f"{folder}: not registered: its logits differ by {error:.1e} from the trained model's, "
            f"more than {tolerance:.0e}"
        )
    if (folder / WEIGHTS_NAME).stat().st_mtime_ns > path.stat().st_mtime_ns:
        raise UserError(
            f"{folder / WEIGHTS_NAME}: changed since its parity was checked; run 'python -m "
            "pipeline.export' again"
        )
    return parity


if __name__ == "__main__":
    command.run(main)
