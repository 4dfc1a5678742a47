"""The event log of a run, ``events.jsonl`` in its folder: one JSON object per line.

Training only appends to this file. Another process reads it and sends the events to MLflow, so a
tracking server that is slow or down never delays training, and an event that was not sent yet is
still here.

| kind | content |
|---|---|
| created | `key`: by which the run is found in MLflow |
| start | `resumed_from`: the last optimizer step that is kept, 0 for a new run; parameters, tags |
| metrics | `step`, and `values` by name |
| note | parameters, tags, files |
| end | the state of the run |

Every event has `kind` and `time_ms` (Unix time).
"""

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from configs.redact import redact
from data_prep.dataset.atomic import write_atomic

LOG_NAME = "events.jsonl"

OLD_KINDS = {"begin": "start"}
"""Kinds of events by the names that they had up to version 0.1.0."""

OLD_KEYS = {"behind_step": "resumed_from"}
"""Keys of events by the names that they had up to version 0.1.0."""


class EventLog:
    """Appends events to the log of one run. Only one process may write it: rank 0."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / LOG_NAME
        if not self._path.exists():
            write_atomic(self._path, "")
            self.append("created", {"key": uuid.uuid4().hex})

    def append(self, kind: str, content: Mapping[str, Any]) -> None:
        """Adds one event, without credentials; the operating system has it when this returns."""
        event = {"kind": kind, "time_ms": int(time.time() * 1000), **redact(content)}
        line = json.dumps(event) + "\n"
        with self._path.open("ab") as stream:
            stream.write(line.encode())

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the metrics of optimizer step `step`."""
        self.append("metrics", {"step": step, "values": dict(values)})

    def discard_after(self, step: int) -> None:
        """Removes the metrics of steps after `step`, and an incomplete last line.

        For a run that resumes from step `step` and repeats the later ones.
        """
        kept = [
            json.dumps(event)
            for event, _ in read_events(self._path)
            if event["kind"] != "metrics" or event["step"] <= step
        ]
        write_atomic(self._path, "".join(line + "\n" for line in kept))


def read_events(path: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Each complete event from byte `offset` on, with the byte offset of its end."""
    with path.open("rb") as stream:
        stream.seek(offset)
        for line in stream:
            if not line.endswith(b"\n"):
                return  # being written, or cut off by a crash
            offset += len(line)
            yield _with_new_names(json.loads(line)), offset


def _with_new_names(event: dict[str, Any]) -> dict[str, Any]:
    renamed = {OLD_KEYS.get(key, key): value for key, value in event.items()}
    if "kind" in renamed:
        renamed["kind"] = OLD_KINDS.get(renamed["kind"], renamed["kind"])
    return renamed
