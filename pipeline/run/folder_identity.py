"""Which folder of a run this is: a copy of a run's folder is a new run, a moved folder is not.

``folder.json`` holds a random id, by which MLflow finds the run, and where the folder was when the
id was made. A copy holds it too. What tells them apart is the place: the folder at the recorded
path, or one with the recorded inode, is the original; any other folder is a copy, also after the
original was deleted, because two runs with one id would overwrite each other's metrics.
"""

import json
import logging
import os
import socket
import uuid
from pathlib import Path

from pydantic import ValidationError

from configs.load import Config, UserError
from data_prep.dataset.atomic import write_atomic
from pipeline.checkpoint.manifest import list_checkpoints, read_manifest

IDENTITY_NAME = "folder.json"

logger = logging.getLogger(__name__)


class Parent(Config):
    """The run that a copied folder was copied from."""

    id: str | None = None
    """Its id; None where only its checkpoints were copied."""
    path: str | None = None
    """Where its folder was."""
    run_id: str | None = None
    """MLflow's id of it, where its id is unknown."""


class FolderIdentity(Config):
    """The content of folder.json."""

    id: str
    """MLflow finds the run by it."""
    owner: str
    """Random; MLflow's run carries it, so that a second folder with the same id is recognised."""
    path: str
    """The folder's real path."""
    host: str
    """The host that wrote this file."""
    device: int
    inode: int
    parent: Parent | None = None


def identify(output: Path) -> FolderIdentity:
    """The identity of the run's folder `output`, which must exist; a copy gets a new one here.

    Raises UserError for a damaged folder.json.
    """
    stored = _read(output / IDENTITY_NAME)
    if stored is None:
        identity = _first_identity(output)
    elif _is_copy(stored, output):
        logger.info(
            "%s: a copy of the folder of a run in %s: a new run in MLflow, which names that one as "
            "its parent",
            *(output, stored.path),
        )
        identity = _new(output, parent=Parent(id=stored.id, path=stored.path))
    else:
        identity = _here(output, stored)
        if identity.path == stored.path and identity.inode == stored.inode:
            return stored
    _write(output, identity)
    return identity


def separate(output: Path, identity: FolderIdentity) -> FolderIdentity:
    """A new identity for `output`, whose run in MLflow belongs to a different folder."""
    new = _new(output, parent=Parent(id=identity.id))
    _write(output, new)
    return new


def _is_copy(stored: FolderIdentity, output: Path) -> bool:
    here, original = output.resolve(), Path(stored.path)
    inode = here.stat().st_ino
    if here == original:
        # Restored from a backup, unless a different machine has the same path.
        return inode != stored.inode and socket.gethostname() != stored.host
    try:
        other = _read(original / IDENTITY_NAME)
    except (OSError, UserError):
        other = None
    if other is not None and other.id == stored.id:
        return not original.samefile(here)
    return inode != stored.inode


def _first_identity(output: Path) -> FolderIdentity:
    """For a new folder, one of an older version, and one into which checkpoints were copied."""
    key = recorded_key(output)
    if key is None:
        return _new(output, parent=_parent_of_checkpoints(output))
    original = _recorded_output(output)
    if (
        original is not None
        and original.is_dir()
        and not original.samefile(output)
        and _old_id(original) == key
    ):
        return _new(output, parent=Parent(id=key, path=str(original.resolve())))
    return _new(output).model_copy(update={"id": key})


def recorded_key(output: Path) -> str | None:
    """The key in the first event of the record, the only identity of older versions."""
    try:
        with (output / "events.jsonl").open("rb") as stream:
            return str(json.loads(stream.readline(1 << 20))["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _old_id(output: Path) -> str | None:
    try:
        stored = _read(output / IDENTITY_NAME)
    except UserError:
        stored = None
    return stored.id if stored else recorded_key(output)


def _recorded_output(output: Path) -> Path | None:
    try:
        return Path(json.loads((output / "run.json").read_bytes())["config"]["output"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _parent_of_checkpoints(output: Path) -> Parent | None:
    for path in reversed(list_checkpoints(output / "checkpoints")):
        try:
            run_id = read_manifest(path).tracking_run_id
        except (UserError, OSError):
            continue
        return Parent(run_id=run_id) if run_id else None
    return None


def _new(output: Path, parent: Parent | None = None) -> FolderIdentity:
    status = output.stat()
    return FolderIdentity(
        id=uuid.uuid4().hex,
        owner=uuid.uuid4().hex,
        path=str(output.resolve()),
        host=socket.gethostname(),
        device=status.st_dev,
        inode=status.st_ino,
        parent=parent,
    )


def _here(output: Path, stored: FolderIdentity) -> FolderIdentity:
    """`stored` with the present place; an alias of the recorded path keeps that."""
    original = Path(stored.path)
    now = _new(output)
    if original.is_dir() and original.samefile(output):
        now = now.model_copy(update={"path": stored.path})
    return now.model_copy(update={"id": stored.id, "owner": stored.owner, "parent": stored.parent})


def _read(path: Path) -> FolderIdentity | None:
    try:
        return FolderIdentity.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise UserError(
            f"{path}: damaged: {error.errors()[0]['msg']}; delete it: the run then is a new one in "
            "MLflow, if that belongs to a different folder"
        ) from None


def _write(output: Path, identity: FolderIdentity) -> None:
    write_atomic(output / IDENTITY_NAME, os.fsencode(identity.model_dump_json(indent=1) + "\n"))
