"""Folders of runs as training records them, without training."""

import json
from pathlib import Path
from typing import Any

from pipeline.tracking.event_log import LOG_NAME, EventLog

PARAMETERS: dict[str, Any] = {
    "name": "tiny",
    "output": "runs/tiny",
    "optimizer.lr": 0.001,
    "grid.tp_size": 1,
    "grid.dp_size": 2,
    "parallel.zero_stage": 1,
    "plan.total_steps": 40,
    "data.tokenizer_sha256": "70" * 32,
    "git.commit": "c0ffee",
    "version.torch": "2.13.0",
}
DATASETS = [
    {
        "name": "corpus",
        "digest": "da7a",
        "source": json.dumps({"uri": "/data/rows"}),
        "profile": json.dumps(
            {
                "fingerprint": "da7a" * 16,
                "sources": {"train/books": {"rows": 1234, "tokens": 5678, "documents": 9}},
            }
        ),
        "context": "pretraining",
    }
]


def step_values(step: int) -> dict[str, float]:
    """The metrics of one step; of every tenth also those of held-out rows."""
    values = {
        "loss": 9.0 - 0.1 * step,
        "gradient_norm": 0.5,
        "skipped": 0.0,
        "learning_rate": 1e-3,
        "rows": 16 * step,
        "tokens": 2048,
        "step_s": 0.5,
        "tokens_per_s": 4096.0,
        "data_wait_s": 0.05,
        "model_flops_utilization": 0.25,
    }
    if step % 10 == 0:
        values |= {"heldout_loss": 9.5 - 0.1 * step, "heldout_loss/books": 9.4 - 0.1 * step}
    return values


def start(log: EventLog, step: int = 0, **more: Any) -> None:
    """Records a start that resumes from `step`; `more` changes its parameters."""
    parameters = {**PARAMETERS, **more}
    tags = {"state": "running", "host": "node1"}
    removed_to = log.discard_after(step)
    removed = {} if removed_to is None else {"removed_to": removed_to}
    content = {"params": parameters, "tags": tags, "datasets": DATASETS, "resumed_from": step}
    log.append("start", {**content, **removed})


def steps(log: EventLog, first: int, last: int) -> None:
    """Records the steps from `first` to `last`."""
    for step in range(first, last + 1):
        log.metrics(step, step_values(step))


def finished_run(folder: Path, **more: Any) -> Path:
    """A run of 40 steps that was stopped at step 20, and rolled back from step 33 to step 30."""
    log = EventLog(folder)
    start(log, **more)
    steps(log, 1, 20)
    log.append("end", {"tags": {"state": "stopped"}, "status": "KILLED"})
    start(log, 20, **{**more, "optimizer.lr": 0.002})
    steps(log, 21, 33)
    log.append(
        "rollback", {"reason": "5 steps in a row with a spike", "start_row": 500, "end_row": 528}
    )
    start(log, 30, **{**more, "optimizer.lr": 0.002})
    steps(log, 31, 40)
    tags = {"state": "finished", "stopped_early": "no", "best_step": "40", "best_score": "5.5"}
    log.append("end", {"tags": tags, "status": "FINISHED"})
    return folder


def append_lines(folder: Path, *lines: str) -> None:
    """Appends lines to the event log as they are, without a line end after the last."""
    with (folder / LOG_NAME).open("a") as file:
        file.write("\n".join(lines))
