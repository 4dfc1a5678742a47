"""What MLflow's public API cannot do: each entry with its reason and the condition for removal.

**delete_metrics_after**

Reason: a run that resumes from an older checkpoint, or that rolls back, computes optimizer steps
again. Their metrics were already sent. MLflow keeps every value that was logged for a step, so the
curve would have two values per step, and its API can delete a run but no metric.

Upstream: https://github.com/mlflow/mlflow/issues/2973 (open since 2020).

Method: where MLflow's store is a database that this process opened (SQLite), the rows are deleted
through MLflow's own table classes. A tracking server does not give this access: there the first
values stay, and the caller marks the run with a tag.

Remove when: `MlflowClient` can delete metrics.
``tests/pipeline/tracking/test_mlflow_compat.py`` fails as soon as it can, and also when one of the
internal names below disappears.

**last_step_of**

Reason: sending resumes after the last step that MLflow has. `Run.data.metrics` holds the latest
values without their steps, and `get_metric_history` loads every value of a metric, which takes
gigabytes for a run of millions of steps.

Method: the entities of the latest values, which MLflow keeps in a private attribute.

Remove when: `RunData` has a public attribute with them. The same test file fails when the private
one disappears.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_COLUMNS = ("key", "value", "timestamp", "step", "is_nan", "run_uuid")


def delete_metrics_after(client: "MlflowClient", run_id: str, step: int, kept_prefix: str) -> bool:
    """Deletes a run's metrics of steps after `step`, except those whose name has `kept_prefix`.

    MLflow stores the latest value of each metric separately; it becomes the last one that remains.
    Returns False, and deletes nothing, if the store is a tracking server.
    """
    store = client._tracking_client.store
    if not hasattr(store, "ManagedSessionMaker"):
        return False
    from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric

    with store.ManagedSessionMaker(read_only=False) as session:
        later = [
            session.query(table).filter(
                table.run_uuid == run_id,
                table.step > step,
                table.key.not_like(f"{kept_prefix}%"),
            )
            for table in (SqlMetric, SqlLatestMetric)
        ]
        names = {row.key for row in later[1]}
        for rows in later:
            rows.delete(synchronize_session=False)
        for name in names:
            last = (
                session.query(SqlMetric)
                .filter(SqlMetric.run_uuid == run_id, SqlMetric.key == name)
                .order_by(SqlMetric.step.desc(), SqlMetric.timestamp.desc())
                .first()
            )
            if last is not None:
                session.add(
                    SqlLatestMetric(**{column: getattr(last, column) for column in _COLUMNS})
                )
    return True


def last_step_of(run: "Run", name: str) -> int:
    """The step of the latest value of metric `name`, -1 without one."""
    return max((metric.step for metric in run.data._metric_objs if metric.key == name), default=-1)
