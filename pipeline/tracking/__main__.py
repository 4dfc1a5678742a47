"""Sends the record of a run to MLflow: ``python -m pipeline.tracking sync CONFIG.yaml``."""

import sys
from pathlib import Path

# Training starts this file by its path: the repository comes first, not this folder.
sys.path[0] = str(Path(__file__).resolve().parents[2])

from configs import command
from configs.load import UserError
from pipeline.finetuning.run_config import load_run
from pipeline.tracking.event_log import LOG_NAME
from pipeline.tracking.follower import follow
from pipeline.tracking.lineage import redact
from pipeline.tracking.sender import AnotherSender, Sender, tracking_uri


def main() -> None:
    """``python -m pipeline.tracking sync|follow CONFIG.yaml key.sub=value ...``."""
    parser = command.parser("Send the record of a run to MLflow.", verbs=("sync", "follow"))
    arguments = parser.parse_args()
    config = load_run(arguments.config, arguments.overrides)
    if not (config.output / LOG_NAME).exists():
        raise UserError(f"{config.output / LOG_NAME}: no such record; has the run been started?")
    if arguments.verb == "follow":
        follow(config)
        return
    try:
        num_sent = Sender(config).send_pending()
    except AnotherSender as error:
        raise UserError(f"{error}; nothing is lost: that one sends what there is") from None
    except Exception as error:
        raise UserError(
            f"{redact(tracking_uri(config))} cannot be reached ({type(error).__name__}: "
            f"{redact(str(error))}); everything is kept, run sync again when it is up"
        ) from error
    print(f"{num_sent} events sent to {redact(tracking_uri(config))}")


if __name__ == "__main__":
    command.run(main)
