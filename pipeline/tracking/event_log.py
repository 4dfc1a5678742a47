"""The run's own record: one JSON line an event, in the run's folder, whatever becomes of MLflow.

Training only ever appends to this file; `pipeline.tracking` reads it, from another process, and
sends what it finds to MLflow. So a tracking server can be slow or down without training noticing,
and what was not sent yet is still here.
"""

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.dataset.atomic import write_atomic

LOG_NAME = "events.jsonl"


class RunLog:
    """Appends events to the record of one run. One process writes it: rank 0."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / LOG_NAME
        if not self._path.exists():
            write_atomic(self._path, "")
            self.append("created", {"key": uuid.uuid4().hex})

    def append(self, kind: str, content: Mapping[str, Any]) -> None:
        """Adds one event; it is in the operating system's hands when this returns."""
        event = {"kind": kind, "time_ms": int(time.time() * 1000), **content}
        line = json.dumps(event) + "\n"
        with self._path.open("ab") as stream:
            stream.write(line.encode())

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the metrics of an optimizer step."""
        self.append("metrics", {"step": step, "values": dict(values)})

    def forget_after(self, step: int) -> None:
        """Drops metrics of later steps, which a resumed run takes again, and a torn last line."""
        kept = [
            json.dumps(event)
            for event, _ in read_events(self._path)
            if event["kind"] != "metrics" or event["step"] <= step
        ]
        write_atomic(self._path, "".join(line + "\n" for line in kept))


def read_events(path: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Each whole event from byte `offset` on, and the offset behind it."""
    with path.open("rb") as stream:
        stream.seek(offset)
        for line in stream:
            if not line.endswith(b"\n"):
                return  # being written, or torn by a crash
            offset += len(line)
            yield json.loads(line), offset
