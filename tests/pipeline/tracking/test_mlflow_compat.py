"""`pipeline.tracking.mlflow_compat` is still needed, and what it uses of MLflow still exists."""

from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric

from pipeline.tracking.mlflow_compat import delete_metrics_after


def metric_deletions(cls: type) -> list[str]:
    """Public methods of `cls` that delete metrics."""
    names = [name.lower() for name in dir(cls) if not name.startswith("_")]
    verbs = ("delete", "remove", "overwrite", "truncate")
    return [name for name in names if "metric" in name and name.startswith(verbs)]


def test_mlflow_still_cannot_delete_metrics() -> None:
    message = (
        "MLflow can delete metrics now: use that and remove pipeline/tracking/mlflow_compat.py"
    )
    assert not metric_deletions(MlflowClient), message
    assert not metric_deletions(AbstractStore), message


def test_mlflow_still_keeps_every_value_of_a_step(tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    run_id = client.create_run(client.create_experiment("test")).info.run_id
    for time_ms, value in ((1, 1.0), (2, 2.0)):
        client.log_batch(run_id, metrics=[Metric("loss", value, time_ms, 5)], synchronous=True)
    values = [metric.value for metric in client.get_metric_history(run_id, "loss")]
    assert values == [1.0, 2.0], "logging a step again replaces its value: no deletion is needed"


def test_the_tables_that_are_changed_have_the_expected_columns() -> None:
    expected = {"key", "value", "timestamp", "step", "is_nan", "run_uuid"}
    assert set(SqlLatestMetric.__table__.columns.keys()) == expected
    assert expected <= set(SqlMetric.__table__.columns.keys())


def test_later_metrics_are_deleted_and_the_latest_value_is_the_last_that_remains(
    tmp_path: Path,
) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.create_experiment("test")
    run_id, other_id = (client.create_run(experiment).info.run_id for _ in range(2))
    for id_ in (run_id, other_id):
        metrics = [Metric("loss", float(step), step, step) for step in range(1, 6)]
        metrics += [Metric("heldout", 9.0, 5, 5), Metric("system/node/cpu_percent", 50.0, 5, 5)]
        client.log_batch(id_, metrics=metrics, synchronous=True)
    assert delete_metrics_after(client, run_id, 3, kept_prefix="system/")
    steps = [metric.step for metric in client.get_metric_history(run_id, "loss")]
    assert steps == [1, 2, 3]
    latest = client.get_run(run_id).data.metrics
    assert latest == {"loss": 3.0, "system/node/cpu_percent": 50.0}
    assert client.get_run(other_id).data.metrics["loss"] == 5.0


def test_a_tracking_server_is_left_unchanged() -> None:
    client = MlflowClient(tracking_uri="http://127.0.0.1:9")
    assert not delete_metrics_after(client, "run", 3, kept_prefix="system/")
