"""The one door to MLflow's tracking API: one MLflow run, found again by the key of its record.

Every call may be repeated: MLflow keeps one of two equal metric values, parameters and tags are
overwritten with the same, checkpoints and data sets are looked up before they are made.
"""

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

RUN_KEY_TAG = "run_key"
STEP_METRIC = "loss"
"""The metric that every optimizer step has: its last step in MLflow is where sending goes on."""
MAX_VALUE_CHARACTERS = 500
MAX_BATCH_METRICS = 900
"""MLflow takes 1,000 in one request."""
CHECKPOINT_TYPE = "checkpoint"


class MlflowRun:
    """The run with `key` in `experiment`, made at the first call if there is none."""

    def __init__(
        self, uri: str, experiment: str, key: str, name: str, start_ms: int | None = None
    ) -> None:
        for logger in ("alembic", "mlflow"):
            logging.getLogger(logger).setLevel(logging.WARNING)
        from mlflow import MlflowClient

        _make_database(uri)
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        found = self._client.get_experiment_by_name(experiment)
        if found is None:
            self._experiment_id = self._client.create_experiment(
                experiment, _artifact_location(uri)
            )
        else:
            self._experiment_id = found.experiment_id
        runs = self._client.search_runs([self._experiment_id], f"tags.{RUN_KEY_TAG} = '{key}'")
        if runs:
            run = runs[0]
        else:
            run = self._client.create_run(
                self._experiment_id,
                start_time=start_ms,
                run_name=name,
                tags={RUN_KEY_TAG: key},
            )
        self.run_id: str = run.info.run_id
        self._params: dict[str, str] = dict(run.data.params)

    def last_step(self) -> int:
        """The last optimizer step that MLflow has, -1 for none."""
        history = self._client.get_metric_history(self.run_id, STEP_METRIC)
        return max((metric.step for metric in history), default=-1)

    def log_metrics(self, metrics: Iterable[tuple[str, float, int, int]]) -> None:
        """Sends metrics as (name, value, time in ms, step), in few requests."""
        from mlflow.entities import Metric

        entities = [
            Metric(clean_name(name), value, time_ms, step) for name, value, time_ms, step in metrics
        ]
        for start in range(0, len(entities), MAX_BATCH_METRICS):
            part = entities[start : start + MAX_BATCH_METRICS]
            self._client.log_batch(self.run_id, metrics=part, synchronous=True)

    def forget_after(self, step: int) -> bool:
        """Whether the metrics of optimizer steps behind `step` are gone from MLflow.

        MLflow's API cannot take a value back. In a database that is open here its rows can; on a
        server the first values stay, and a tag names the steps whose values were taken again.
        """
        last_step = self.last_step()
        if last_step <= step:
            return True
        store = self._client._tracking_client.store
        if not hasattr(store, "ManagedSessionMaker"):
            self.log_tags({f"replaced_after.{step}": f"steps {step + 1} to {last_step}"})
            return False
        _delete_metrics(store, self.run_id, step)
        return True

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Sends parameters; one that changed since the first start becomes a tag ``now.NAME``."""
        from mlflow.entities import Param

        texts = {clean_name(name): shorten(value) for name, value in params.items()}
        new = [Param(name, text) for name, text in texts.items() if name not in self._params]
        for start in range(0, len(new), 90):
            self._client.log_batch(self.run_id, params=new[start : start + 90], synchronous=True)
        changed = {
            f"now.{name}": text
            for name, text in texts.items()
            if self._params.get(name, text) != text
        }
        self.log_tags(changed)
        self._params = {**texts, **self._params}

    def log_tags(self, tags: Mapping[str, Any]) -> None:
        """Sends tags; a later value replaces the earlier one."""
        from mlflow.entities import RunTag

        entities = [RunTag(clean_name(name), shorten(value)) for name, value in tags.items()]
        for start in range(0, len(entities), 90):
            part = entities[start : start + 90]
            self._client.log_batch(self.run_id, tags=part, synchronous=True)

    def set_status(self, status: str, time_ms: int) -> None:
        """RUNNING, or an end at `time_ms`: FINISHED, FAILED, KILLED."""
        if status == "RUNNING":
            self._client.update_run(self.run_id, status=status)
        else:
            self._client.set_terminated(self.run_id, status, time_ms)

    def log_datasets(self, datasets: Sequence[Mapping[str, str]]) -> None:
        """Sends what the run was trained on: name, digest, source, profile (JSON) and context."""
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
            for entry in datasets
        ]
        if inputs:
            self._client.log_inputs(self.run_id, inputs)

    def log_checkpoint(self, entry: Mapping[str, Any]) -> None:
        """Sends one checkpoint as an entry that refers to its folder; nothing is copied."""
        from mlflow.entities import LoggedModelOutput

        name = f"step-{entry['step']:08d}"
        found = self._client.search_logged_models(
            [self._experiment_id], f"name = '{name}' AND source_run_id = '{self.run_id}'"
        )
        if found:
            return
        params = {key: shorten(value) for key, value in entry.items()}
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

    def log_file(self, path: Path, folder: str) -> None:
        """Copies a file to the run's artifacts."""
        self._client.log_artifact(self.run_id, str(path), folder)

    def log_folder(self, path: Path, folder: str) -> str:
        """Copies a folder to the run's artifacts; its address."""
        self._client.log_artifacts(self.run_id, str(path), folder)
        return f"{self._client.get_run(self.run_id).info.artifact_uri}/{folder}"

    def register(self, name: str, source: str, tags: Mapping[str, Any], description: str) -> str:
        """Makes a version of the registered model `name` from `source`; its number."""
        if not self._client.search_registered_models(f"name = '{name}'"):
            self._client.create_registered_model(name)
        version = self._client.create_model_version(
            name,
            source=source,
            run_id=self.run_id,
            tags={key: str(value) for key, value in tags.items()},
            description=description,
        )
        return str(version.version)


def _delete_metrics(store: Any, run_id: str, step: int) -> None:
    """Deletes metrics of steps behind `step`, but not of the system, from MLflow's own database."""
    from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric

    with store.ManagedSessionMaker(read_only=False) as session:
        for table in (SqlMetric, SqlLatestMetric):
            rows = session.query(table).filter(
                table.run_uuid == run_id, table.step > step, table.key.not_like("system/%")
            )
            names = {row.key for row in rows} if table is SqlLatestMetric else set()
            rows.delete(synchronize_session=False)
        for name in names:
            last = (
                session.query(SqlMetric)
                .filter(SqlMetric.run_uuid == run_id, SqlMetric.key == name)
                .order_by(SqlMetric.step.desc(), SqlMetric.timestamp.desc())
                .first()
            )
            if last is not None:
                columns = ("key", "value", "timestamp", "step", "is_nan", "run_uuid")
                session.add(SqlLatestMetric(**{c: getattr(last, c) for c in columns}))


def is_refusal(error: Exception) -> bool:
    """Whether MLflow will never take what it was sent, however often one tries."""
    return getattr(error, "error_code", "") in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


def clean_name(name: str) -> str:
    """`name` with what MLflow does not allow in the name of a metric, parameter or tag as _."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:250]


def shorten(value: Any) -> str:
    """`value` as text that MLflow takes."""
    text = str(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[: MAX_VALUE_CHARACTERS - 3] + "..."


def _artifact_location(uri: str) -> str | None:
    """Beside the SQLite file; a server decides for itself."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts").as_uri()


def _make_database(uri: str) -> None:
    """Makes the tables of a new SQLite file under another name first.

    MLflow takes seconds for them, and cannot go on with a file that a kill left half made.
    """
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or path.exists():
        return
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        unfinished = Path(folder) / "new.db"
        MlflowClient(tracking_uri=f"sqlite:///{unfinished}").search_experiments()
        with contextlib.suppress(FileExistsError):  # another run was faster
            os.link(unfinished, path)


def save_transformers_model(tokenizer: Any, model: Any, target: Path) -> None:
    """Writes a Hugging Face model to `target` in MLflow's transformers flavour."""
    import mlflow.transformers

    for logger in ("mlflow", "mlflow.transformers"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    mlflow.transformers.save_model(
        transformers_model={"model": model, "tokenizer": tokenizer},
        path=str(target),
        task="fill-mask",
        pip_requirements=["transformers", "torch"],
    )
