"""What was sent of a run's record, per tracking server: ``tracking.json`` in the run's folder.

A copy of the folder starts from zero, and so does a server or database that is a new one under the
same address: what was sent belongs to one folder and to one run of MLflow.
"""

import json
import logging
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from configs.load import Config
from data_prep.dataset.atomic import write_atomic
from pipeline.run.folder_identity import IDENTITY_NAME, FolderIdentity
from pipeline.tracking.json_lines import open_regular

STATE_NAME = "tracking.json"
UNKNOWN_SERVER = ""
"""Version 0.1.0 did not record the server; MLflow's id of the run tells."""

logger = logging.getLogger(__name__)


class Position(Config):
    """A position in the event log, with what recognises that the log was rewritten."""

    offset: int = 0
    """All before it is sent (bytes)."""
    num_notes: int = 0
    """Events other than metrics before it."""
    line_bytes: int = 0
    """Length of the last line before it."""
    line_crc: int = 0
    """CRC-32 of that line."""

    def is_in(self, path: Path) -> bool:
        """Whether `path` still holds the same line there."""
        if self.offset == 0:
            return True
        with open_regular(path) as stream:
            stream.seek(self.offset - self.line_bytes)
            line = stream.read(self.line_bytes)
        return len(line) == self.line_bytes and zlib.crc32(line) == self.line_crc


def position_at(path: Path, start: int, offset: int, num_notes: int) -> Position:
    """The position `offset`, after the line or lines from byte `start` on."""
    if offset == 0:
        return Position()
    start = max(start, offset - (1 << 16))
    with open_regular(path) as stream:
        stream.seek(start)
        line = stream.read(offset - start)
    return Position(
        offset=offset, num_notes=num_notes, line_bytes=len(line), line_crc=zlib.crc32(line)
    )


class ServerState(Config):
    """What one server has of the run."""

    run_id: str = ""
    """MLflow's id of the run."""
    num_notes: int = 0
    """Events other than metrics that were sent."""
    position: Position = Position()
    """How far the event log was sent."""
    checkpoints_offset: int = 0
    """How far checkpoints.jsonl was sent (bytes)."""
    system: Mapping[str, int] = Field(default_factory=dict)
    """How far the samples of each node were sent (bytes)."""
    plots_due: bool = False
    """The end of the run was sent, its plots were not."""


class Sent(Config):
    """The content of tracking.json."""

    version: int = 2
    folder: str
    """The id of the folder."""
    run_id: str | None = None
    """MLflow's id of the run at the server that was last sent to."""
    servers: Mapping[str, ServerState] = Field(default_factory=dict)
    """By address without credentials."""

    def of(self, server: str, run_id: str) -> ServerState:
        """What the run `run_id` at `server` has; nothing if that run is a new one."""
        for state in (self.servers.get(server), self.servers.get(UNKNOWN_SERVER)):
            if state is not None and state.run_id == run_id:
                return state
        return ServerState(run_id=run_id)


def read_sent(folder: Path, identity: FolderIdentity) -> Sent:
    """What was sent of this folder's record; of a copy, and from a damaged file, nothing."""
    path = folder / STATE_NAME
    tree = _read_tree(path)
    try:
        if "version" not in tree:
            return Sent(folder=identity.id, servers={UNKNOWN_SERVER: _old_state(tree)})
        sent = Sent.model_validate(tree)
    except ValidationError:
        logger.warning("%s: damaged; the record is sent again, nothing appears twice", path)
        return Sent(folder=identity.id)
    return sent if sent.folder == identity.id else Sent(folder=identity.id)


def _old_state(tree: dict[str, Any]) -> ServerState:
    return ServerState.model_validate(
        {
            "run_id": tree.get("run_id", ""),
            "num_notes": tree.get("sent_notes", 0),
            "system": tree.get("system", {}),
        }
    )


def write_sent(folder: Path, sent: Sent, server: str, state: ServerState) -> Sent:
    """Writes and returns `sent` with what `server` has now."""
    servers = {**sent.servers, server: state}
    new = sent.model_copy(update={"servers": servers, "run_id": state.run_id})
    write_atomic(folder / STATE_NAME, new.model_dump_json())
    return new


def run_id_of(folder: Path) -> str | None:
    """MLflow's id of the run in `folder`, None as long as MLflow was never reached."""
    tree = _read_tree(folder / STATE_NAME)
    identity = _read_tree(folder / IDENTITY_NAME).get("id")
    if "version" in tree and tree.get("folder") != identity:
        return None  # that of the folder that this one was copied from
    return tree.get("run_id")


def _read_tree(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}
