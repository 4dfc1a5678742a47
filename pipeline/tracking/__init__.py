"""Experiment tracking: training appends to a local event log, another process sends it to MLflow.

record          what the training loop calls; the first rank of each node samples its node
event_log       ``events.jsonl`` in the run's folder: the record itself, complete without MLflow
sender          sends new events to MLflow and remembers how far it came
sender_process  runs the sender beside training, in a separate process
mlflow_run      the only file that calls MLflow's tracking API
mlflow_compat   what MLflow's public API cannot do
lineage         parameters, tags, data sets and checkpoints as they are recorded
plots           curves of a run as PNG files
system_metrics  processors, memory, network and accelerators of a node
"""
