"""The folder of a run: which run it holds, whether it is finished, and whether a config fits it.

run.json     the config and data fingerprint that the folder belongs to
DONE         written last by rank 0: the run is finished; only this file means so
events.jsonl the record (pipeline.tracking.event_log)
verified_shards.json  shards whose hash was right (pipeline.data.verification)
folder.json  its identity: a copy of the folder is a new run (pipeline.run.folder_identity)
checkpoints/ the checkpoints (pipeline.checkpoint)
lock/        which process uses the folder now (configs.folder_lock)
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.differences import Difference
from configs.load import UserError
from configs.redact import redact
from data_prep.dataset.atomic import write_atomic
from data_prep.dataset.files import read_json
from model.compute import BreaksBitEquality
from pipeline.checkpoint.manifest import list_checkpoints, read_manifest
from pipeline.run.changes import added_phases, differences_of_runs
from pipeline.run.config import RunConfig
from pipeline.run.folder_identity import identify
from pipeline.run.mid_run import (
    changed_data,
    changes_for_a_phase,
    forbidden_changes,
    newest_position,
)

logger = logging.getLogger(__name__)

RUN_NAME = "run.json"
DONE_NAME = "DONE"


def checkpoints_folder(config: RunConfig) -> Path:
    """Where the checkpoints of a run are."""
    return config.output / "checkpoints"


def is_done(config: RunConfig) -> bool:
    """Whether all rows that `config` asks for were trained on, or early stopping ended the run.

    Raises UserError that names every difference if the folder holds a different run.
    """
    rows, stopped_early = _read_done(config.output / DONE_NAME)
    if not rows:
        return False
    stored = _read(config)
    asked = config.with_length_of(stored.config if stored else None)
    if asked is None:
        return False
    if rows < asked.end_row and (not stopped_early or stopped_early != _early_stop_of(asked)):
        return False
    if stored is not None:
        taken = min(rows, asked.end_row)
        _refuse(asked, stored.config, forbidden_changes(stored.config, asked, taken), taken)
    return True


def _read_done(path: Path) -> tuple[int, dict[str, Any] | None]:
    """The rows after which the run was finished, 0 where it was not, and what ended it early."""
    try:
        content = read_json(path)
        return int(content["consumed_rows"]), content.get("stopped_early")
    except FileNotFoundError:
        return 0, None
    except (ValueError, KeyError, TypeError, AttributeError):
        logger.warning("%s: damaged; the newest checkpoint says what is left to do", path)
        return 0, None


def mark_done(
    config: RunConfig, step: int, consumed_rows: int, stopped_early: bool = False
) -> None:
    """Records that the run is finished, at its last row unless it `stopped_early`."""
    content: dict[str, Any] = {"step": step, "consumed_rows": consumed_rows}
    if stopped_early:
        content["stopped_early"] = _early_stop_of(config)
    write_atomic(config.output / DONE_NAME, json.dumps(content) + "\n")


def _early_stop_of(config: RunConfig) -> dict[str, Any]:
    """What a run that stopped early was asked for; with anything else it is not finished."""
    stopping = config.validation.early_stopping
    return {"end_row": config.end_row, "patience": stopping and stopping.model_dump(mode="json")}


def claim(config: RunConfig, data_fingerprint: str) -> list[str]:
    """Makes the folder of the run, or finds that it holds this run already. For rank 0.

    Returns a line for every setting that differs from the last start and may. Raises UserError that
    names every difference if the folder holds a different run.
    """
    changes = check_claim(config, data_fingerprint)
    config.output.mkdir(parents=True, exist_ok=True)
    identify(config.output)  # while run.json still says where the folder was
    now = {"config": _without_credentials(config), "data_fingerprint": data_fingerprint}
    write_atomic(config.output / RUN_NAME, json.dumps(now, indent=1) + "\n")
    return changes


def check_claim(config: RunConfig, data_fingerprint: str) -> list[str]:
    """What `claim` returns and raises; writes nothing."""
    _refuse_averages(config)
    stored = _read(config)
    if stored is None:
        return []
    before = stored.config
    now = config.from_stored(_without_credentials(config), origin="this run")
    consumed_rows = newest_position(checkpoints_folder(config))
    lines = [
        *forbidden_changes(before, now, consumed_rows),
        *changed_data(before, stored.data_fingerprint, data_fingerprint, consumed_rows),
    ]
    _refuse(now, before, lines, consumed_rows)
    return [*map(_describe_change, differences_of_runs(before, now)), *added_phases(before, now)]


@dataclass(frozen=True)
class _Stored:
    """The content of run.json."""

    config: RunConfig
    data_fingerprint: str


def _read(config: RunConfig) -> _Stored | None:
    path = config.output / RUN_NAME
    if not path.exists():
        return None
    try:
        stored = read_json(path)
        tree, fingerprint = dict(stored["config"]), str(stored["data_fingerprint"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: damaged ({error!r}): restore it from a copy, or delete it if you are sure "
            "that the folder holds this run"
        ) from None
    return _Stored(config.from_stored(redact(tree, {}), origin=str(path)), fingerprint)


def _refuse(config: RunConfig, before: RunConfig, lines: list[str], consumed_rows: int) -> None:
    if not lines:
        return
    advice = "choose a new output folder, or restore the settings of that run"
    if keys := changes_for_a_phase(before, config, consumed_rows):
        advice += (
            f"; to train on with another {' and '.join(keys)}, restore them too and add a phase "
            "with the new values under `then` (docs/phases.md)"
        )
    raise UserError(
        f"{config.output} holds a different run; it differs in\n"
        + "\n".join(f"  {line}" for line in lines)
        + f"\n{advice}"
    )


def _refuse_averages(config: RunConfig) -> None:
    """Raises UserError for an average of checkpoints: it has no optimizer state, and no step."""
    for path in list_checkpoints(checkpoints_folder(config)):
        try:
            averaged = read_manifest(path).averaged
        except (UserError, OSError):
            continue  # damaged or not readable, which the start of a run reports of the newest
        if averaged is not None:
            raise UserError(
                f"{config.output} holds an average of checkpoints, which cannot be resumed: choose "
                f"a new output, and start: {{type: run, path: {config.output}}}"
            )


def _without_credentials(config: RunConfig) -> dict[str, Any]:
    """The config as run.json holds it, which people without the user's credentials may read."""
    return redact(config.model_dump(mode="json"), {})


def _describe_change(change: Difference) -> str:
    found = change.mark(BreaksBitEquality)
    if found is None:
        return str(change)
    whose = f"results of {found.where}" if found.where else "results"
    return f"{change}; from here on, {whose} are not bit-equal to an uninterrupted run"
