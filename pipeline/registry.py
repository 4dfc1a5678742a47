"""Registers an exported model in MLflow: ``python -m pipeline.registry CONFIG.yaml --name NAME``.

The model is logged with its run in MLflow's transformers flavour, with the parity error that the
export measured. An export without a parity record, with too large an error, with files that changed
since, or of weights other than the checkpoint's is refused; contents are compared by sha256.
"""

import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from configs import command
from configs.load import UserError
from configs.redact import redact
from model.head_types import HeadType
from model.hugging_face.family import auto_class
from pipeline.checkpoint.choice import add_choice, choose_checkpoint
from pipeline.checkpoint.manifest import Checkpoint
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.run_config import load_result
from pipeline.finetuning.tasks.task import TaskConfig
from pipeline.hugging_face.folder import (
    EXPORT_NAME,
    Parity,
    check_export,
    load_auto_model,
    load_auto_tokenizer,
    load_exported,
    transformers_name,
)
from pipeline.model_cards.run_history import describe_average, describe_start, read_history
from pipeline.run.config import RunConfig
from pipeline.run.folder_identity import identify
from pipeline.run.run_folder import checkpoints_folder
from pipeline.run.trained_model import check_config
from pipeline.tracking.event_log import LOG_NAME
from pipeline.tracking.mlflow_run import MlflowRun, save_transformers_model
from pipeline.tracking.sent import run_id_of
from pipeline.tracking.tracked_run import tracking_uri

PIPELINES: Mapping[HeadType, str] = {
    "sequence_classification": "text-classification",
    "sequence_regression": "text-classification",
    "token_classification": "token-classification",
}
"""transformers' pipelines by the head of a task. There is none for multiple choice, and since
version 5 none for answers to questions."""

logger = logging.getLogger(__name__)


def main() -> None:
    """Registers the export of the run."""
    parser = command.parser("Register a run's exported model in MLflow.")
    parser.add_argument(
        "--name",
        help="name of the registered model (default: the run's name); fine-tuning: NAME-TASK",
    )
    add_choice(parser)
    arguments = parser.parse_args()
    config = load_result(arguments.config, arguments.overrides)
    checkpoint = choose_checkpoint(checkpoints_folder(config), arguments.step, arguments.best)
    name, folder = arguments.name or config.name, config.output / EXPORT_NAME
    register_export(config, name, checkpoint, folder)


def register_export(config: RunConfig, name: str, checkpoint: Checkpoint, folder: Path) -> None:
    """Registers the export of `checkpoint` in `folder`: of fine-tuning each of its tasks, as
    NAME-TASK."""
    exports = {name: folder}
    if isinstance(config, FinetuneConfig):
        exports = {f"{name}-{task}": folder / task for task in config.tasks}
    for model, place in exports.items():
        version, parity = register(config, model, checkpoint, place)
        logger.info(
            "%s version %s in %s: step %d, parity error %.1e",
            *(model, version, redact(tracking_uri(config))),
            *(parity.source.step, parity.largest_difference),
        )


def register(
    config: RunConfig, name: str, checkpoint: Checkpoint, folder: Path
) -> tuple[str, Parity]:
    """(version, parity record) of the newly registered model, the export of `checkpoint`.

    In fine-tuning, the name of `folder` is that of the task. Raises UserError for an export whose
    parity is not proven, or that is of another checkpoint, and for a config that disagrees with
    that.
    """
    check_config(config, checkpoint)
    parity = check_export(folder, checkpoint)
    step = checkpoint.manifest.step
    run = _run_of(config, checkpoint)
    task = config.tasks[folder.name] if isinstance(config, FinetuneConfig) else None
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "model"
        source_folder = _as_mlflow_model(folder, task, target)
        source = run.log_folder(source_folder, f"{_prefix(folder, task)}model-step-{step:08d}")
    tags = {
        "step": step,
        "parity_error": parity.largest_difference,
        "output": folder.resolve(),
        **({} if task is None else task_tags(folder.name, checkpoint)),
    }
    averaged = checkpoint.manifest.averaged
    what = f"Step {step} of run {config.name}"
    if averaged is not None:
        what = f"The average of {describe_average(averaged)}"
    if task is not None:
        what += f", task {folder.name}, fine-tuned from {describe_start(checkpoint)}"
    description = (
        f"{what}; its {parity.quantity}s differ by at most "
        f"{parity.largest_difference:.1e} from the trained model's."
    )
    return run.register(name, source, tags, description), parity


def _prefix(folder: Path, task: TaskConfig | None) -> str:
    return "" if task is None else f"{folder.name}-"


def _as_mlflow_model(folder: Path, task: TaskConfig | None, target: Path) -> Path:
    """The folder to register: `target`, in MLflow's transformers flavour; the export itself for
    tasks that transformers has no pipeline for."""
    if task is None:
        tokenizer, model = load_exported(folder)
        pipeline = transformers_name("pipeline")("fill-mask", model=model, tokenizer=tokenizer)
        save_transformers_model(pipeline, f"A {tokenizer.mask_token}.", target)
        return target
    head = task.head().type
    if head not in PIPELINES:
        return folder
    model = load_auto_model(folder, auto_class(head))
    tokenizer = load_auto_tokenizer(folder)
    pipeline = transformers_name("pipeline")(PIPELINES[head], model=model, tokenizer=tokenizer)
    save_transformers_model(pipeline, "A text.", target)
    return target


def task_tags(task: str, checkpoint: Checkpoint) -> dict[str, str]:
    """What a registered model says of the dev metrics, the data and the start of a task."""
    history, suffix = read_history(checkpoint), f"/{task}"
    tags = {"task": task, "start": describe_start(checkpoint)}
    evaluations = history.evaluations or {}
    if evaluations:
        last = max(evaluations)
        tags["evaluated_step"] = str(last)
        for name, value in evaluations[last].items():
            if name.endswith(suffix):
                tags[name.removesuffix(suffix)] = f"{value:.6g}"
    for found in history.datasets:
        if found.name == task:
            profile = found.profile
            digest = f"sha256 {profile.get('sha256')}, {profile.get('examples')} examples"
            tags[f"data.{found.context}"] = digest
    start = checkpoint.manifest.start
    if start is not None:
        tags["start.fingerprint"] = start.fingerprint
        if start.tracking_run_id is not None:
            tags["start.run_id"] = start.tracking_run_id
    return tags


def _run_of(config: RunConfig, checkpoint: Checkpoint) -> MlflowRun:
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
