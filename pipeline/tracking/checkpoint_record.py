"""The record of a run's checkpoints: ``checkpoints.jsonl`` in its folder.

Each checkpoint is recorded once, before retention deletes it, and once more when it is deleted.
"""

import json
import logging
from collections import deque
from pathlib import Path
from typing import Any

from configs.load import UserError
from configs.redact import redact
from pipeline.checkpoint.manifest import MANIFEST_NAME, list_checkpoints, read_manifest
from pipeline.tracking.json_lines import append_lines, read_objects

CHECKPOINTS_NAME = "checkpoints.jsonl"
PRUNED_KEY = "pruned"

logger = logging.getLogger(__name__)


class CheckpointRecord:
    """Records the checkpoints of the run in `output`; manifests are read once each."""

    def __init__(self, output: Path) -> None:
        self._path = output / CHECKPOINTS_NAME
        self._folder = output / "checkpoints"
        self._end_row = 0
        self._existing: set[int] = set()
        """Recorded steps whose checkpoint is not known to be deleted."""
        self._folder_time_ns = -1
        if self._path.exists():
            for entry, _ in read_objects(self._path, is_valid=is_entry):
                self._note(entry)

    def update(self) -> None:
        """Records what is new since the last call. A full disk is logged; it is tried again."""
        try:
            time_ns = self._folder.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if time_ns == self._folder_time_ns:
            return
        paths = {
            int(path.name[5:]): path for path in list_checkpoints(self._folder) if _is_step(path)
        }
        entries = [
            *(entry for step in sorted(paths) if (entry := self._entry(step, paths[step]))),
            *({"step": step, PRUNED_KEY: True} for step in sorted(self._existing - paths.keys())),
        ]
        try:
            for entry in entries:
                append_lines(self._path, deque([(json.dumps(redact(entry)) + "\n").encode()]))
                self._note(entry)
        except OSError as error:
            logger.warning("%s: cannot be written (%s)", self._path, error.strerror or error)
            return
        is_complete = all(step in self._existing for step in paths)
        self._folder_time_ns = time_ns if is_complete else -1

    def _note(self, entry: dict[str, Any]) -> None:
        step = entry["step"]
        if entry.get(PRUNED_KEY):
            self._existing.discard(step)
            return
        self._existing.add(step)
        self._end_row = entry["end_row"]

    def _entry(self, step: int, path: Path) -> dict[str, Any] | None:
        """The entry of a checkpoint that is complete and not recorded yet."""
        if step in self._existing or not (path / MANIFEST_NAME).exists():
            return None
        try:
            manifest = read_manifest(path)
        except (UserError, OSError):  # deleted as too old, or damaged, which a resume reports
            return None
        entry = {
            "step": manifest.step,
            "path": str(path.resolve()),
            "sha256": manifest.sha256,
            "first_row": min(self._end_row, manifest.consumed_rows),
            "end_row": manifest.consumed_rows,
            "heldout_loss": manifest.heldout_loss,
            "bytes": sum(file.bytes for file in manifest.files),
        }
        self._end_row = manifest.consumed_rows
        return entry | ({} if manifest.dev_error is None else {"dev_error": manifest.dev_error})


def is_entry(entry: Any) -> bool:
    """Whether a JSON value has the shape of an entry."""
    if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
        return False
    return bool(entry.get(PRUNED_KEY)) or (
        isinstance(entry.get("end_row"), int) and isinstance(entry.get("path"), str)
    )


def _is_step(path: Path) -> bool:
    return path.name[5:].isdecimal()
