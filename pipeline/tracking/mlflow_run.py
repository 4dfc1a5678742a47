"""One MLflow run, found by the key of its event log. The only caller of MLflow's tracking API.

Every call may be repeated: MLflow stores equal metric values once, parameters and tags are
overwritten with equal ones, checkpoints and data sets are looked up before they are created. No
credential is sent: every text passes `configs.redact`.
"""

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.redact import redact
from pipeline.tracking.mlflow_compat import delete_metrics_after, last_step_of
from pipeline.tracking.tracked_run import check_database, database_file, sqlite_uri

if TYPE_CHECKING:
    from mlflow.entities import Run

RUN_KEY_TAG = "run_key"
STEP_METRIC = "loss"
"""A metric that every optimizer step has. Sending resumes after its last step in MLflow."""
MAX_VALUE_CHARACTERS = 500
MAX_BATCH_METRICS = 900
"""MLflow accepts 1,000 in one request."""
MAX_BATCH_VALUES = 90
"""Parameters or tags in one request; MLflow accepts 100."""
SYSTEM_PREFIX = "system/"
"""How the names of a node's metrics start, which no optimizer step computes again."""
CHECKPOINT_TYPE = "checkpoint"
PRUNED_TAG = "pruned"
"""Of a checkpoint's entry: whether its folder was deleted."""


class MlflowRun:
    """The run with `key` in `experiment`; it is created if it does not exist.

    Methods raise MlflowException if the server cannot be reached or rejects a request.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        key: str,
        name: str,
        start_ms: int | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """`start_ms` and `tags` are those of a run that is created."""
        for logger in ("alembic", "mlflow"):
            logging.getLogger(logger).setLevel(logging.WARNING)
        from mlflow import MlflowClient

        database = database_file(uri)
        if database is not None:
            check_database(database)
            _create_database(database)
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        found = self._client.get_experiment_by_name(experiment)
        if found is None:
            self._experiment_id = self._client.create_experiment(
                experiment, _artifact_location(uri)
            )
        else:
            self._experiment_id = found.experiment_id
        run = self._find(key)
        self.is_new = run is None
        """Whether it was created now."""
        if run is None:
            run = self._client.create_run(
                self._experiment_id,
                start_time=start_ms,
                run_name=name,
                tags={RUN_KEY_TAG: key, **(tags or {})},
            )
        self.run_id: str = run.info.run_id
        self.tags: Mapping[str, str] = dict(run.data.tags)
        """The tags that it had when it was found."""
        self._params: dict[str, str] = dict(run.data.params)

    def find_id(self, key: str) -> str | None:
        """MLflow's id of the run with `key` in the same experiment."""
        run = self._find(key)
        return None if run is None else str(run.info.run_id)

    def find_or_create(self, key: str, name: str) -> str:
        """MLflow's id of the run with `key` in the same experiment, which is created if needed."""
        run = self._find(key) or self._client.create_run(
            self._experiment_id, run_name=name, tags={RUN_KEY_TAG: key}
        )
        return str(run.info.run_id)

    def _find(self, key: str) -> "Run | None":
        quoted = key.replace("'", "")  # keys are hexadecimal
        query = f"tags.{RUN_KEY_TAG} = '{quoted}'"
        runs = self._client.search_runs([self._experiment_id], query, max_results=1)
        return runs[0] if runs else None

    def last_step(self) -> int:
        """The last optimizer step that MLflow has, -1 if it has none."""
        return last_step_of(self._client.get_run(self.run_id), STEP_METRIC)

    def log_metrics(self, metrics: Iterable[tuple[str, float, int, int]]) -> None:
        """Sends metrics as (name, value, Unix time in ms, step), many in one request."""
        from mlflow.entities import Metric

        entities = [
            Metric(clean_name(name), value, time_ms, step) for name, value, time_ms, step in metrics
        ]
        for start in range(0, len(entities), MAX_BATCH_METRICS):
            part = entities[start : start + MAX_BATCH_METRICS]
            self._client.log_batch(self.run_id, metrics=part, synchronous=True)

    def delete_after(self, step: int) -> bool:
        """Whether the metrics of optimizer steps after `step` could be deleted from MLflow.

        They can in a database such as SQLite. On a server the values that were sent first stay, and
        a tag ``replaced_after.STEP`` names the steps that were computed again.
        """
        last_step = self.last_step()
        if last_step <= step:
            return True
        if delete_metrics_after(self._client, self.run_id, step, kept_prefix=SYSTEM_PREFIX):
            return True
        self.log_tags({f"replaced_after.{step}": f"steps {step + 1} to {last_step}"})
        return False

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Sends parameters. One that changed since the first start becomes a tag ``now.NAME``."""
        from mlflow.entities import Param

        texts = {clean_name(name): to_text(value) for name, value in redact(params).items()}
        new = [Param(name, text) for name, text in texts.items() if name not in self._params]
        for start in range(0, len(new), MAX_BATCH_VALUES):
            part = new[start : start + MAX_BATCH_VALUES]
            self._client.log_batch(self.run_id, params=part, synchronous=True)
        changed = {
            f"now.{name}": text
            for name, text in texts.items()
            if self._params.get(name, text) != text
        }
        self.log_tags(changed)
        self._params = {**texts, **self._params}

    def log_tags(self, tags: Mapping[str, Any]) -> None:
        """Sends tags. A later value replaces an earlier one."""
        from mlflow.entities import RunTag

        entities = [
            RunTag(clean_name(name), to_text(value)) for name, value in redact(tags).items()
        ]
        for start in range(0, len(entities), MAX_BATCH_VALUES):
            part = entities[start : start + MAX_BATCH_VALUES]
            self._client.log_batch(self.run_id, tags=part, synchronous=True)

    def set_status(self, status: str, time_ms: int) -> None:
        """Sets RUNNING, or the end at `time_ms` (Unix time): FINISHED, FAILED or KILLED."""
        if status == "RUNNING":
            self._client.update_run(self.run_id, status=status)
        else:
            self._client.set_terminated(self.run_id, status, time_ms)

    def log_datasets(self, datasets: Sequence[Mapping[str, str]]) -> None:
        """Sends the data sets of the run: name, digest, source and profile (JSON), and context."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(
                    name=entry["name"],
                    digest=entry["digest"],
                    source_type="local",
                    source=entry["source"],
                    profile=entry["profile"],
                ),
                [InputTag("mlflow.data.context", entry["context"])],
            )
            for entry in redact(datasets)
        ]
        if inputs:
            self._client.log_inputs(self.run_id, inputs)

    def log_checkpoint(self, entry: Mapping[str, Any]) -> None:
        """Sends one checkpoint as a model entry that refers to its folder; nothing is copied."""
        from mlflow.entities import LoggedModelOutput

        entry = redact(entry)
        name = checkpoint_name(entry["step"])
        model_id = self._find_checkpoint(entry["step"])
        if model_id is not None:  # sent before, or saved again at the same step
            self._client.set_logged_model_tags(model_id, {PRUNED_TAG: "false"})
            return
        params = {key: to_text(value) for key, value in entry.items()}
        model = self._client.create_logged_model(
            self._experiment_id,
            name=name,
            source_run_id=self.run_id,
            tags={"path": str(entry["path"])},
            params=params,
            model_type=CHECKPOINT_TYPE,
        )
        self._client.finalize_logged_model(model.model_id, "READY")
        self._client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, entry["step"])])

    def log_pruned(self, step: int) -> None:
        """Marks the entry of a checkpoint whose folder was deleted, with a tag."""
        model_id = self._find_checkpoint(step)
        if model_id is not None:
            self._client.set_logged_model_tags(model_id, {PRUNED_TAG: "true"})

    def _find_checkpoint(self, step: int) -> str | None:
        found = self._client.search_logged_models(
            [self._experiment_id],
            f"name = '{checkpoint_name(step)}' AND source_run_id = '{self.run_id}'",
            max_results=1,
        )
        return str(found[0].model_id) if found else None

    def log_file(self, path: Path, folder: str) -> None:
        """Copies a file to the run's artifacts."""
        self._client.log_artifact(self.run_id, str(path), folder)

    def log_folder(self, path: Path, folder: str) -> str:
        """Copies a folder to the run's artifacts and returns its URI."""
        self._client.log_artifacts(self.run_id, str(path), folder)
        return f"{self._client.get_run(self.run_id).info.artifact_uri}/{folder}"

    def register(self, name: str, source: str, tags: Mapping[str, Any], description: str) -> str:
        """Creates a version of the registered model `name` from `source`; its number."""
        if not self._client.search_registered_models(f"name = '{name}'"):
            self._client.create_registered_model(name)
        version = self._client.create_model_version(
            name,
            source=source,
            run_id=self.run_id,
            tags={key: str(value) for key, value in redact(tags).items()},
            description=redact(description),
        )
        return str(version.version)


def checkpoint_name(step: int) -> str:
    """The name of a checkpoint's entry, and of its folder."""
    return f"step-{step:08d}"


def is_rejection(error: Exception) -> bool:
    """Whether MLflow permanently rejects a request, so that a retry cannot succeed."""
    return getattr(error, "error_code", "") in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


def clean_name(name: str) -> str:
    """`name`, cut to 250 characters, with _ for each character that MLflow does not allow."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:250]


def to_text(value: Any) -> str:
    """`value` as a text that is short enough for MLflow."""
    text = str(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[: MAX_VALUE_CHARACTERS - 3] + "..."


def _artifact_location(uri: str) -> str | None:
    """The folder of artifacts: beside the SQLite file; None lets a server choose it."""
    database = database_file(uri)
    return None if database is None else (database.resolve().parent / "mlartifacts").as_uri()


def _create_database(path: Path) -> None:
    """Creates a new SQLite file with its tables under a temporary name, then renames it.

    MLflow takes seconds to create the tables and cannot use a file in which a kill left only some.
    """
    if path.exists():
        return
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        unfinished = Path(folder) / "new.db"
        MlflowClient(tracking_uri=sqlite_uri(unfinished)).search_experiments()
        with contextlib.suppress(FileExistsError):  # another run created it first
            os.link(unfinished, path)


def save_transformers_model(pipeline: Any, example: str, target: Path) -> None:
    """Writes a pipeline of transformers to `target`; MLflow infers its signature by `example`."""
    import mlflow.transformers

    for logger in ("mlflow", "mlflow.transformers"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    mlflow.transformers.save_model(
        transformers_model=pipeline,
        path=str(target),
        task=pipeline.task,
        input_example=example,
        pip_requirements=["transformers", "torch"],
    )
