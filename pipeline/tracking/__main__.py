"""Sends the event log of a run to MLflow: ``python -m pipeline.tracking sync CONFIG.yaml``.

A run's folder in place of CONFIG.yaml takes what the last start recorded of itself.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # training starts this file by its path: its folder is not the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from configs import command
from configs.load import UserError
from configs.redact import redact
from pipeline.finetuning.run_config import load_run
from pipeline.tracking.checkpoint_record import CheckpointRecord
from pipeline.tracking.event_log import LOG_NAME
from pipeline.tracking.follow import follow
from pipeline.tracking.sender import AnotherSender, Sender
from pipeline.tracking.tracked_run import TrackedRun, recorded_run, tracked_run

logger = logging.getLogger(__name__)


def main() -> None:
    """``python -m pipeline.tracking sync|follow CONFIG.yaml|RUN key.sub=value ...``."""
    parser = command.parser(
        "Send the event log of a run to MLflow: sync sends once, follow until standard input ends. "
        "The run's folder may be given in place of the config file.",
        verbs=("sync", "follow"),
    )
    parser.add_argument(
        "--alive-fd", type=int, help="a pipe that follow writes to while it is not stuck"
    )
    arguments = parser.parse_args()
    tracked = read_run(arguments.config, arguments.overrides)
    if not (tracked.folder / LOG_NAME).exists():
        raise UserError(f"{tracked.folder / LOG_NAME}: no such file; was the run ever started?")
    if arguments.verb == "follow":
        follow(tracked, arguments.alive_fd)
    else:
        sync(tracked)


def read_run(path: str, overrides: Sequence[str]) -> TrackedRun:
    """The run of a config file, or of a run's folder as it was recorded."""
    if not Path(path).is_dir():
        return tracked_run(load_run(path, overrides))
    if overrides:
        raise UserError(f"{path} is a run's folder: overrides need its config file")
    return recorded_run(Path(path))


def sync(tracked: TrackedRun) -> None:
    """Sends all events that were not sent yet."""
    CheckpointRecord(tracked.folder).update()
    sender = Sender(tracked)
    try:
        num_sent = sender.send_pending()
        sender.close()
    except AnotherSender as error:
        raise UserError(f"{error}; nothing is lost") from None
    except UserError as error:
        raise UserError(f"{error}; all events are kept: run sync again then") from None
    except Exception as error:
        raise UserError(
            f"{tracked.server} cannot be reached ({type(error).__name__}: {error}); all "
            "events are kept: run sync again when it is available"
        ) from error
    logger.info("%d events sent to %s", num_sent, redact(tracked.server))


if __name__ == "__main__":
    command.run(main)
