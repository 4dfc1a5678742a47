"""Which run is sent to MLflow, and where to. Imports no mlflow."""

import json
import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from configs.load import UserError
from configs.redact import REDACTED
from pipeline.run.config import RunConfig
from pipeline.run.run_folder import RUN_NAME

SQLITE = "sqlite:///"
_ESCAPES = {"%": "%25", "?": "%3F", "#": "%23"}
"""Characters that have a meaning in an address; MLflow's database layer decodes them."""


@dataclass(frozen=True)
class TrackedRun:
    """A run's folder, and MLflow's address, experiment and run name for it."""

    folder: Path
    uri: str
    experiment: str
    name: str

    @property
    def server(self) -> str:
        """The address without credentials, under which it is recorded what was sent."""
        return re.sub(r"(?<=://)[^/]*@", "", self.uri)


def tracked_run(config: RunConfig) -> TrackedRun:
    """The run of a config, sent to where the config says."""
    return TrackedRun(config.output, tracking_uri(config), config.tracking.experiment, config.name)


def recorded_run(folder: Path) -> TrackedRun:
    """The run in `folder` as its last start recorded it in run.json.

    Raises UserError where that is missing, damaged or without the address.
    """
    path = folder / RUN_NAME
    try:
        config = json.loads(path.read_bytes())["config"]
        tracking, name = config["tracking"], str(config["name"])
        uri = tracking["uri"] or _default_uri(folder)
        experiment = str(tracking["experiment"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not the record of a run ({error})") from None
    if REDACTED in uri:
        raise UserError(f"{path}: the tracking URI had credentials, which are not recorded")
    return TrackedRun(folder, str(uri), experiment, name)


def tracking_uri(config: RunConfig) -> str:
    """The tracking URI: the configured one, or a SQLite file beside the run's folder."""
    return config.tracking.uri or _default_uri(config.output)


def _default_uri(folder: Path) -> str:
    return sqlite_uri(folder.resolve().parent / "mlflow.db")


def sqlite_uri(path: Path) -> str:
    """The tracking URI of a SQLite file."""
    return SQLITE + "".join(_ESCAPES.get(character, character) for character in str(path))


def database_file(uri: str) -> Path | None:
    """The SQLite file of a tracking URI; None for a server.

    Raises UserError for a path with a character that has a meaning in a URI.
    """
    if not uri.startswith(SQLITE):
        return None
    address, _, query = uri.removeprefix(SQLITE).partition("?")
    if "/" in query or "#" in address:
        escaped = sqlite_uri(Path(uri.removeprefix(SQLITE)))
        raise UserError(f"tracking.uri {uri}: write ? as %3F and # as %23: {escaped}")
    return Path(unquote(address))


def check_database(path: Path) -> None:
    """Raises UserError if the SQLite file `path` exists and cannot be used."""
    if not path.exists():
        return
    advice = "move it away, or set tracking.uri: a new database gets the whole record"
    if not path.is_file():
        raise UserError(f"{path}: not a database file; {advice}")
    try:
        with path.open("rb"):
            pass
        connection = sqlite3.connect(path, timeout=20.0)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        finally:
            connection.close()
    except OSError as error:
        raise UserError(f"{path}: this database cannot be read ({error.strerror})") from None
    except sqlite3.OperationalError as error:
        raise UserError(f"{path}: this database cannot be opened ({error})") from None
    except sqlite3.DatabaseError as error:
        raise UserError(f"{path}: this database is damaged ({error}); {advice}") from None
