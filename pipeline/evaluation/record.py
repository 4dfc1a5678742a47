"""The record of an evaluation in MLflow: one run, linked to the entries of the models."""

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.redact import redact
from pipeline.evaluation.config import TrackingChoice
from pipeline.evaluation.models import FoundModel
from pipeline.evaluation.results import Evaluation, ModelResults
from pipeline.hugging_face.folder import EXPORT_NAME
from pipeline.tracking.lineage import flatten
from pipeline.tracking.sent import run_id_of
from pipeline.tracking.tracked_run import sqlite_uri, tracking_uri

EXPERIMENT = "evaluation"
ARTIFACTS = "evaluation"

logger = logging.getLogger(__name__)


def record(
    evaluation: Evaluation, models: Sequence[FoundModel], choice: TrackingChoice, folder: Path
) -> None:
    """Sends the results in `folder` to MLflow; a failure is logged, since the results are written.

    The same evaluation of the same models is the same run there.
    """
    runs = [model.run for model in models if model.run is not None]
    tracked = [run for run in runs if run.tracking.enabled]
    if runs and not tracked and choice.uri is None:
        return  # as their configs say: tracking.enabled false
    uri, experiment = sqlite_uri(folder.resolve().parent / "mlflow.db"), EXPERIMENT
    if tracked:
        uri, experiment = tracking_uri(tracked[0]), tracked[0].tracking.experiment
    uri, experiment = choice.uri or uri, choice.experiment or experiment
    try:
        run_id = _send(evaluation, models, (uri, experiment), folder)
    except Exception as error:  # MLflow raises exceptions of many libraries
        logger.warning(
            "not recorded in MLflow at %s (%s); the results are in %s, and the same command "
            "computes and records them again",
            *(redact(uri, {}), redact(str(error), {}), folder),
        )
        return
    logger.info("recorded in MLflow at %s: run %s", redact(uri, {}), run_id)


def _send(
    evaluation: Evaluation, models: Sequence[FoundModel], where: tuple[str, str], folder: Path
) -> str:
    from pipeline.tracking.mlflow_evaluation import link_checkpoint
    from pipeline.tracking.mlflow_run import MlflowRun

    uri, experiment = where
    now = int(time.time() * 1000)
    run = MlflowRun(
        *(uri, experiment, evaluation.fingerprint, f"evaluation {folder.name}"),
        start_ms=now - int(1000 * evaluation.facts["seconds"]),
        tags={"kind": "evaluation"},
    )
    run.log_params(_parameters(evaluation))
    run.log_tags(_tags(evaluation))
    run.log_datasets(_datasets(evaluation))
    is_alone = len(evaluation.models) == 1
    for result, model in zip(evaluation.models, models, strict=True):
        values = metrics_of(result)
        prefix = "" if is_alone else f"{result.name}/"
        run.log_metrics((prefix + name, value, now, 0) for name, value in values.items())
        source = _source_of(model)
        if source is None:
            continue
        linked = link_checkpoint(run, uri, *source, values, now)
        if linked is None:
            logger.info("%s: has no model entry at this MLflow server", model.name)
        else:
            run.log_tags({f"model.{result.name}.entry": linked})
    run.log_folder(folder, ARTIFACTS)
    run.set_status("FINISHED", now)
    return run.run_id


def metrics_of(result: ModelResults) -> dict[str, float]:
    """The measures of a model by ``CHECK/NAME`` or ``CHECK/NAME/GROUP``, without undefined ones."""
    return {
        "/".join(filter(None, (check, one.name, one.group))): one.value
        for check, found in result.checks.items()
        for one in found.measures
        if math.isfinite(one.value)
    }


def _source_of(model: FoundModel) -> tuple[str, int] | None:
    """(MLflow's id of the run, step) of the checkpoint that a model is, or was exported from."""
    step = model.origin.get("step")
    if step is None:
        return None
    if model.checkpoint is not None:
        folder = model.checkpoint.path.parents[1]
        run_id = run_id_of(folder) or model.checkpoint.manifest.tracking_run_id
    else:
        folder = model.path.resolve()
        run_id = run_id_of(folder.parent) if folder.name == EXPORT_NAME else None
    return None if run_id is None else (run_id, step)


def _parameters(evaluation: Evaluation) -> dict[str, Any]:
    config = {key: value for key, value in evaluation.config.items() if value is not None}
    return {
        **flatten(config),
        **{f"model.{model.name}": str(model.origin["path"]) for model in evaluation.models},
        "precision": evaluation.facts["precision"],
        "git.commit": evaluation.facts["git_commit"],
        **{f"version.{name}": value for name, value in evaluation.facts["versions"].items()},
    }


def _tags(evaluation: Evaluation) -> dict[str, Any]:
    tags: dict[str, Any] = {
        "processor": evaluation.facts["processor"],
        "device": evaluation.facts["device"],
        "texts.fingerprint": evaluation.facts["texts"].get("fingerprint", "none"),
    }
    for model in evaluation.models:
        for key in ("step", "sha256", "data_fingerprint", "tokenizer_sha256", "tracking_run_id"):
            if key in model.origin:
                tags[f"model.{model.name}.{key}"] = model.origin[key]
    return tags


def _datasets(evaluation: Evaluation) -> list[Mapping[str, str]]:
    texts = evaluation.facts["texts"]
    if not texts:
        return []
    source = {key: texts[key] for key in ("rows", "files") if key in texts}
    return [
        {
            "name": "held-out texts",
            "digest": texts["fingerprint"][:16],
            "source": json.dumps(source),
            "profile": json.dumps({"sources": texts["sources"], "left_out": texts["left_out"]}),
            "context": "evaluation",
        }
    ]
