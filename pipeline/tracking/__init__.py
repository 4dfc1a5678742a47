"""Experiment tracking: training appends to a local event log, another process sends it to MLflow.

record          what the training loop calls; the first rank of each node samples its node
event_log       ``events.jsonl`` in the run's folder: the record itself, complete without MLflow
json_lines      files of one JSON object per line, after torn and unreadable lines
kept_files      the only files that are sent
sender          sends new events to MLflow and remembers how far it came
sent            what each server has of the record; unsent counts the rest
follow          the loop of the process beside training that sends
sender_process  keeps that process alive, and reports what was not sent
tracked_run     which run is sent, and where to
mlflow_run      the only file that calls MLflow's tracking API
mlflow_compat   what MLflow's public API cannot do
lineage         parameters, tags and data sets as they are recorded
checkpoint_record  checkpoints, and which were deleted
plots           curves of a run as PNG files
system_metrics  processors, memory, network and accelerators of a node
system_summary  the same of many nodes, as a few figures
"""
