"""How much of a run's record a tracking server does not have. Imports no mlflow."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.run.folder_identity import identify
from pipeline.tracking.checkpoint_record import CHECKPOINTS_NAME, is_entry
from pipeline.tracking.event_log import LOG_NAME, read_events
from pipeline.tracking.json_lines import read_objects
from pipeline.tracking.sent import Position, ServerState, read_sent
from pipeline.tracking.tracked_run import TrackedRun


def count_unsent(tracked: TrackedRun) -> str:
    """What of the record was not sent, as text; empty if all was."""
    path = tracked.folder / LOG_NAME
    if not path.exists():
        return ""
    sent = read_sent(tracked.folder, identify(tracked.folder))
    state = sent.servers.get(tracked.server, ServerState())
    position = state.position if state.position.is_in(path) else Position()
    counts = {
        "events": sum(_count(path, position, state)),
        "checkpoints": _num_checkpoints(tracked.folder, state.checkpoints_offset),
        "plots": int(state.plots_due),
    }
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)


def _count(path: Path, position: Position, state: ServerState) -> Iterator[int]:
    """1 for each event that was not sent."""
    num_notes = position.num_notes
    for event, _ in read_events(path, position.offset):
        if event["kind"] == "metrics":
            yield 1
        else:
            num_notes += 1
            yield int(num_notes > state.num_notes)


def _num_checkpoints(folder: Path, offset: int) -> int:
    path = folder / CHECKPOINTS_NAME
    return sum(1 for _ in read_objects(path, offset, is_entry)) if path.exists() else 0
