"""Parameters, tags and data sets of a run, as they are recorded. Needs no torch.

Of the environment only `RECORDED_VARIABLES` are recorded. The event log and `MlflowRun` remove
credentials from all values (`configs.redact`).
"""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.redact import redact
from pipeline.checkpoint.start_record import StartRecord
from pipeline.run.config import RunConfig, TrainConfig
from pipeline.run.later_phases import changes_by_phase
from pipeline.run.plan import PhasePlan, RunPlan
from pipeline.run.versions import versions
from pipeline.tracking.event_log import LOG_NAME, read_events
from pipeline.tracking.mixture import BY_ROWS
from pipeline.tracking.sent import run_id_of

RECORDED_VARIABLES = (
    *("SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_JOB_NODELIST", "SLURM_JOB_PARTITION"),
    *("SLURM_RESTART_COUNT", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "WORLD_SIZE"),
)
ROOT = Path(__file__).resolve().parents[2]
REPORT_NAME = "report.html"


def describe_parameters(plan: RunPlan) -> dict[str, Any]:
    """Parameters of a pretraining run with dotted names: config, grid, plan, data, code."""
    return {
        **describe_code(plan.config),
        "grid.tp_size": plan.tp_size,
        "grid.dp_size": plan.dp_size,
        "plan.total_steps": plan.steps.total_steps,
        "plan.accumulation": plan.phases[0].accumulation(plan.config.batch.global_rows),
        "data.fingerprint": plan.data_fingerprint,
        "data.tokenizer_sha256": plan.tokenizer_sha256,
        **describe_start(plan.start_record),
    }


def describe_start(record: StartRecord | None) -> dict[str, Any]:
    """Parameters that name the weights that a run started from."""
    if record is None:
        return {}
    found = {
        "start.description": record.description,
        "start.fingerprint": record.fingerprint,
        # A checkpoint that was saved before MLflow was reached does not have it.
        "start.run_id": record.tracking_run_id or run_id_of(Path(record.path)),
    }
    return {key: value for key, value in found.items() if value is not None}


def describe_code(config: RunConfig) -> dict[str, Any]:
    """Parameters of any run with dotted names: config, git commit, package versions."""
    commit, dirty = git_commit()
    tree = config.model_dump(mode="json")
    if isinstance(config, TrainConfig) and config.then:
        changes = changes_by_phase(config.phases)
        tree["then"] = {str(number): changed for number, changed in enumerate(changes)}
    return {
        **flatten(redact(tree)),
        "git.commit": commit,
        "git.dirty": dirty,
        **{f"version.{name}": version for name, version in versions().items()},
    }


def describe_launch() -> dict[str, str]:
    """Tags of this start: the host and `RECORDED_VARIABLES`."""
    found = {name: os.environ[name] for name in RECORDED_VARIABLES if name in os.environ}
    named = {name.lower().replace("slurm_", "slurm."): value for name, value in found.items()}
    return {"host": socket.gethostname(), **named}


def describe_datasets(plan: RunPlan) -> list[dict[str, str]]:
    """The data set of every phase, and those of the runs before, as MLflow expects them."""
    own = [_describe_dataset(phase, number) for number, phase in enumerate(plan.phases)]
    return own + describe_ancestors(plan.start_record)


def describe_ancestors(record: StartRecord | None) -> list[dict[str, str]]:
    """The data that the weights of a start were trained on, a data set for each run before."""
    ancestors = [] if record is None else record.ancestors()
    return [
        {
            "name": str(ancestor.name),
            "digest": ancestor.data["fingerprint"][:16],
            "source": json.dumps({"uri": ancestor.data["paths"]}),
            "profile": json.dumps(
                {
                    **ancestor.data,
                    "weights": ancestor.description,
                    "sources": _recorded_sources(Path(ancestor.path)),
                }
            ),
            "context": "start" if number == 0 else f"start of the start, {number}",
        }
        for number, ancestor in enumerate(ancestors)
        if ancestor.data is not None
    ]


def _recorded_sources(run: Path) -> dict[str, Any]:
    """The counts of every source of the data that the run in `run` was last started with.

    Empty where its record is gone: the fingerprint of the data remains.
    """
    datasets: list[Mapping[str, Any]] = []
    try:
        for event, _ in read_events(run / LOG_NAME):
            if event["kind"] == "start":
                datasets = event.get("datasets", [])
        named = [(found["name"], json.loads(found["profile"])) for found in datasets]
        with_sources = [
            (name, profile["sources"]) for name, profile in named if profile.get("sources")
        ]
        several = len(with_sources) > 1
        return {
            f"{name}: {source}" if several else source: counts
            for name, sources in with_sources
            for source, counts in sources.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _describe_dataset(phase: PhasePlan, number: int) -> dict[str, str]:
    manifest, path = phase.manifest, phase.config.data.path.resolve()
    sources = {
        f"{split}/{name}": {"rows": rows.rows, "tokens": rows.tokens, "documents": rows.documents}
        for split, sources in manifest.splits.items()
        for name, rows in sources.items()
    }
    profile = {
        "fingerprint": manifest.fingerprint,
        "tokenizer_sha256": manifest.tokenizer.sha256,
        "vocab_size": manifest.vocab_size,
        "row_tokens": manifest.row_tokens,
        "packing": manifest.packing,
        "weights": phase.mixture_weights or BY_ROWS,
        "sources": sources,
    }
    return {
        "name": path.parent.name if path.name == "rows" else path.name,
        "digest": manifest.fingerprint[:16],
        "source": json.dumps({"uri": str(path)}),
        "profile": json.dumps(profile),
        "context": "pretraining" if number == 0 else f"pretraining phase {number + 1}",
    }


def describe_files(
    name: str, context: str, paths: Sequence[Path], sha256: str, counts: Mapping[str, int]
) -> dict[str, str]:
    """Files of examples, as MLflow expects a data set; `counts` of their examples by name."""
    resolved = [str(path.resolve()) for path in paths]
    return {
        "name": name,
        "digest": sha256[:16],
        "source": json.dumps({"uri": resolved[0] if len(resolved) == 1 else resolved}),
        "profile": json.dumps({"sha256": sha256, "files": [path.name for path in paths], **counts}),
        "context": context,
    }


def data_reports(config: TrainConfig) -> list[str]:
    """Paths of the reports of data preparation that exist beside the rows."""
    paths = [phase.data.path / REPORT_NAME for phase in config.phases]
    return [str(path) for path in paths if path.exists()]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`tree` as one mapping with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def git_commit() -> tuple[str, bool]:
    """(commit of this code or "unknown", whether tracked files differ from it)."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return "unknown", False
    git = ("git", "-C", str(ROOT))
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    status = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True
    )
    return commit.stdout.strip() or "unknown", bool(status.stdout.strip())
