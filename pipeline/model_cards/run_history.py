"""What a run's folder records of the way to a checkpoint: data sets, evaluations, code version.

From ``events.jsonl`` alone: the data sets themselves may be gone. Imports no torch.
"""

import contextlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.dataset.files import read_json
from pipeline.checkpoint.manifest import Checkpoint
from pipeline.checkpoint.records import AveragedCheckpoint
from pipeline.checkpoint.start_record import StartRecord
from pipeline.tracking.event_log import LOG_NAME, read_events

START_NAME = "start.json"
"""Says what a run started from, if not from random weights."""
REPORT_NAME = "report.json"
"""The report of data preparation, beside the rows."""
LEAST_LANGUAGE_SHARE = 0.01
"""Languages of a smaller share of the documents are not named."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSet:
    """A data set that a run was started with."""

    name: str
    context: str
    """What it was for: "pretraining", "train", ..."""
    profile: Mapping[str, Any]
    """Fingerprint or sha256, row width, and the rows, tokens and documents of each source."""


@dataclass(frozen=True)
class RunHistory:
    """The record of a run up to a step."""

    datasets: tuple[DataSet, ...] = ()
    """Those of the launch that made the step."""
    evaluations: Mapping[int, Mapping[str, float]] | None = None
    """By step, the metrics on held-out rows and dev files; None: the run's record is missing."""
    commit: str | None = None
    """The git commit of the code; None where it is not recorded."""
    is_dirty: bool = False
    """Whether the code differed from the commit."""
    launches: int = 0
    """Starts up to the step, resumed ones included."""


def read_history(checkpoint: Checkpoint) -> RunHistory:
    """The record of a checkpoint's run up to its step; empty where the record is missing.

    An average has the data sets of its checkpoints' runs, and no evaluations: those are not its.
    """
    manifest = checkpoint.manifest
    if manifest.averaged is None:
        return _read_history(_run_folder(checkpoint), manifest.step)
    last_steps: dict[Path, int] = {}
    for part in manifest.averaged:
        run = Path(part.path).parent.parent
        last_steps[run] = max(part.step, last_steps.get(run, 0))
    datasets = [d for run, step in last_steps.items() for d in _read_history(run, step).datasets]
    unique = {json.dumps([d.name, d.context, d.profile], sort_keys=True): d for d in datasets}
    return RunHistory(datasets=tuple(unique.values()))


def _read_history(run: Path, step: int) -> RunHistory:
    path = run / LOG_NAME
    evaluations: dict[int, dict[str, float]] = {}
    launch: dict[str, Any] = {}
    launches = 0
    sources: dict[str, dict[str, Any]] = {}
    try:
        for event, _ in read_events(path):
            if event["kind"] == "start" and event.get("resumed_from", 0) < max(step, 1):
                launch, launches = event, launches + 1
                sources |= _sources_of_starts(event)
            elif event["kind"] == "metrics" and event["step"] <= step:
                values = {k: v for k, v in event["values"].items() if _is_evaluation(k)}
                if values:
                    evaluations[event["step"]] = values
    except OSError as error:
        logger.info("%s: cannot be read (%s): the model card lacks metrics and data", path, error)
        return RunHistory()
    parameters = launch.get("params", {})
    commit = str(parameters.get("git.commit", "unknown"))
    return RunHistory(
        datasets=tuple(_data_set(found, sources) for found in launch.get("datasets", [])),
        evaluations=evaluations,
        commit=None if commit == "unknown" else commit,
        is_dirty=bool(parameters.get("git.dirty", False)),
        launches=launches,
    )


def describe_start(checkpoint: Checkpoint) -> str:
    """What the weights of a checkpoint's run were before it, without the path of a folder."""
    record = checkpoint.manifest.start
    if record is None:
        with contextlib.suppress(OSError, ValueError):  # older runs: beside the checkpoints only
            stored = read_json(_run_folder(checkpoint) / START_NAME)
            record = StartRecord.model_validate(stored)
    if record is None:
        start = checkpoint.manifest.config.get("start")
        if not isinstance(start, dict) or start.get("type", "scratch") == "scratch":
            return "random"
        return f"{start['type']} {_last_part(start.get('path', ''))}".replace("_", " ")
    return ", before that ".join(_start_text(found) for found in record.ancestors())


def _start_text(record: StartRecord) -> str:
    weights = f"weights `{record.fingerprint[:16]}`"
    if record.averaged is not None:
        return f"the average of {describe_average(record.averaged)} ({weights})"
    if record.name is None:
        return f"the model in {_last_part(record.path)} ({weights})"
    step = "" if record.step is None else f", step {record.step:,}"
    return f"run {record.name}{step} ({weights})"


def describe_average(parts: Sequence[AveragedCheckpoint]) -> str:
    """The checkpoints of an average with their shares, without the path of a folder."""
    return ", ".join(
        f"run {Path(part.path).parent.parent.name} step {part.step:,} "
        f"(share {part.weight:.4g}, checkpoint `{part.sha256[:16]}`)"
        for part in parts
    )


def hub_name(checkpoint: Checkpoint) -> str | None:
    """ "owner/name" of the model that the run started from, if that was in a cache of the hub."""
    record = checkpoint.manifest.start
    return None if record is None else _hub_name(record.path)


def _hub_name(path: str) -> str | None:
    found = re.search(r"(?:^|/)models--([\w.-]+?)--([\w.-]+)/snapshots/", path)
    return f"{found[1]}/{found[2]}" if found else None


def _last_part(path: str) -> str:
    return _hub_name(path) or path.rstrip("/").rsplit("/", 1)[-1]


def _run_folder(checkpoint: Checkpoint) -> Path:
    """The folder of the run, wherever it was moved to: checkpoints are in RUN/checkpoints."""
    return checkpoint.path.parent.parent


def _is_evaluation(name: str) -> bool:
    return name.startswith(("heldout_", "dev_"))


def _data_set(found: Mapping[str, Any], sources: Mapping[str, Any]) -> DataSet:
    """`sources`: those of the data of earlier runs, by digest."""
    profile = _profile(found)
    known = sources.get(str(found.get("digest")))
    if known and not profile.get("sources"):
        profile = {**profile, "sources": known}
    name, context = str(found.get("name", "")), str(found.get("context", ""))
    return DataSet(name=name, context=context, profile=profile)


def _sources_of_starts(launch: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The sources of the data of earlier runs that a launch found in their records, by digest.

    A later launch does not find them where the folders of these runs are gone.
    """
    profiles = {str(found.get("digest")): _profile(found) for found in launch.get("datasets", [])}
    return {
        digest: profile["sources"]
        for digest, profile in profiles.items()
        if isinstance(profile.get("sources"), dict) and profile["sources"]
    }


def _profile(found: Mapping[str, Any]) -> dict[str, Any]:
    with contextlib.suppress(ValueError, TypeError):
        profile = json.loads(found.get("profile", "{}"))
        if isinstance(profile, dict):
            return profile
    return {}


def languages_of_rows(rows: Path) -> list[str]:
    """The languages of the documents of `rows`, the most frequent first.

    Those of the documents that filters kept, as detected or as its config says; in rows
    of older versions, of the documents that were read. Empty where the report is gone.
    """
    counts: dict[str, int] = {}
    try:
        report = read_json(rows / REPORT_NAME)
        for source in report["sources"].values():
            values = source["filter_values"]
            kept = values.get("kept_languages")
            for code, count in (values["languages"] if kept is None else kept).items():
                counts[str(code)] = counts.get(str(code), 0) + int(count)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []  # a card without languages is valid
    total = sum(counts.values())
    known = {code: n for code, n in counts.items() if code.isalpha() and len(code) in (2, 3)}
    frequent = [code for code, n in known.items() if n >= LEAST_LANGUAGE_SHARE * total]
    return sorted(frequent, key=lambda code: -known[code])
