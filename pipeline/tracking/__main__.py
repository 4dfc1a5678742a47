"""Sends the event log of a run to MLflow: ``python -m pipeline.tracking sync CONFIG.yaml``."""

import logging
import sys
from pathlib import Path

if not __package__:  # training starts this file by its path: its folder is not the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from configs import command
from configs.load import UserError
from configs.redact import redact
from pipeline.finetuning.run_config import load_run
from pipeline.tracking.event_log import LOG_NAME
from pipeline.tracking.sender import AnotherSender, Sender, tracking_uri
from pipeline.tracking.sender_process import follow

logger = logging.getLogger(__name__)


def main() -> None:
    """``python -m pipeline.tracking sync|follow CONFIG.yaml key.sub=value ...``."""
    parser = command.parser(
        "Send the event log of a run to MLflow: sync sends once, follow until standard input ends.",
        verbs=("sync", "follow"),
    )
    arguments = parser.parse_args()
    config = load_run(arguments.config, arguments.overrides)
    if not (config.output / LOG_NAME).exists():
        raise UserError(f"{config.output / LOG_NAME}: no such file; was the run ever started?")
    if arguments.verb == "follow":
        follow(config)
        return
    try:
        num_sent = Sender(config).send_pending()
    except AnotherSender as error:
        raise UserError(f"{error}; nothing is lost") from None
    except Exception as error:
        raise UserError(
            f"{tracking_uri(config)} cannot be reached ({type(error).__name__}: {error}); all "
            "events are kept: run sync again when it is available"
        ) from error
    logger.info("%d events sent to %s", num_sent, redact(tracking_uri(config)))


if __name__ == "__main__":
    command.run(main)
