"""Links the run of an evaluation in MLflow to the entries of the models that it evaluated."""

from collections.abc import Mapping

from pipeline.tracking.mlflow_run import MlflowRun, checkpoint_name, clean_name


def link_checkpoint(
    run: MlflowRun,
    uri: str,
    source_run_id: str,
    step: int,
    metrics: Mapping[str, float],
    time_ms: int,
) -> str | None:
    """MLflow's id of the entry of the checkpoint of `step` of the run `source_run_id`, None where
    there is none at this server.

    The entry becomes an input of `run`, and `metrics` are shown with it. May be repeated.
    """
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModelInput, Metric
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    try:
        experiment = client.get_run(source_run_id).info.experiment_id
    except MlflowException:
        return None  # a run of a different server
    found = client.search_logged_models(
        [experiment],
        f"name = '{checkpoint_name(step)}' AND source_run_id = '{source_run_id}'",
        max_results=1,
    )
    if not found:
        return None
    model_id = str(found[0].model_id)
    # MLflow refuses an input, and a metric of a model, that it has already: an export is the same
    # entry as its checkpoint, and an evaluation may be repeated.
    inputs = client.get_run(run.run_id).inputs
    if model_id in {one.model_id for one in inputs.model_inputs or ()}:
        return model_id
    client.log_inputs(run.run_id, models=[LoggedModelInput(model_id)])
    entities = [
        Metric(clean_name(name), value, time_ms, 0, model_id=model_id)
        for name, value in metrics.items()
    ]
    client.log_batch(run.run_id, metrics=entities, synchronous=True)
    return model_id
