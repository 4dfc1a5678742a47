"""The folder of a run: which run it holds, whether that is finished, and whether this is the same.

run.json     the config and data fingerprint that the folder belongs to
DONE         written last by rank 0: the run is finished; only this file means so
events.jsonl the record (pipeline.tracking.event_log)
checkpoints/ the checkpoints (pipeline.checkpoint); tracking.json
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.load import UserError
from data_prep.dataset.atomic import write_atomic
from pipeline.run.config import RunConfig

RUN_NAME = "run.json"
DONE_NAME = "DONE"


def checkpoints_folder(config: RunConfig) -> Path:
    """Where the checkpoints of a run are."""
    return config.output / "checkpoints"


def is_done(config: RunConfig) -> bool:
    """Whether the run of `config` is finished, to its last row."""
    path = config.output / DONE_NAME
    if not path.exists():
        return False
    consumed: int = json.loads(path.read_bytes())["consumed_rows"]
    return consumed >= config.end_row


def mark_done(config: RunConfig, step: int, consumed_rows: int) -> None:
    """Says that the run is finished."""
    content = {"step": step, "consumed_rows": consumed_rows}
    write_atomic(config.output / DONE_NAME, json.dumps(content) + "\n")


def claim(config: RunConfig, data_fingerprint: str) -> list[str]:
    """Makes the folder of the run, or finds that it holds this run already. For rank 0.

    Returns a line for every setting that differs from the last start and may. Raises UserError that
    names every difference if the folder holds another run.
    """
    changes = check_claim(config, data_fingerprint)
    now = {"config": config.model_dump(mode="json"), "data_fingerprint": data_fingerprint}
    write_atomic(config.output / RUN_NAME, json.dumps(now, indent=1) + "\n")
    return changes


def check_claim(config: RunConfig, data_fingerprint: str) -> list[str]:
    """What `claim` returns and raises; writes nothing."""
    path = config.output / RUN_NAME
    changes = []
    if path.exists():
        before = json.loads(path.read_bytes())
        changes = list(differences(before["config"], config.model_dump(mode="json")))
        forbidden = [line for line in changes if line.startswith(config.IDENTITY)]
        if before["data_fingerprint"] != data_fingerprint:
            forbidden.append("the rows are others: the fingerprint of the data set changed")
        if forbidden:
            raise UserError(
                f"{config.output} holds another run; it differs in\n"
                + "\n".join(f"  {line}" for line in forbidden)
                + "\nchoose another output folder, or go back to the settings of that run"
            )
    return changes


def differences(before: Any, now: Any, prefix: str = "") -> Iterator[str]:
    """One line for each leaf that differs: its dotted path, the old value and the new one."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            path = f"{prefix}.{key}" if prefix else key
            yield from differences(before.get(key), now.get(key), path)
    elif before != now:
        yield f"{prefix}: {before!r} before, {now!r} now"
