"""``start.json`` in the folder of a run: which weights the run started from.

Once the run has a checkpoint, the folder of the start may be moved or deleted: the checkpoint holds
the network and the tokenizer, and this file what the weights were.
"""

import logging
from pathlib import Path

from pydantic import ValidationError

from configs.load import UserError
from data_prep.dataset.atomic import write_atomic
from data_prep.dataset.files import first_error, read_json
from pipeline.checkpoint.manifest import Checkpoint, list_checkpoints, read_manifest
from pipeline.checkpoint.start_record import StartRecord
from pipeline.start.config import FromHuggingFace, FromRun
from pipeline.start.start import weights_in

START_NAME = "start.json"

logger = logging.getLogger(__name__)


def own_checkpoint(output: Path) -> Checkpoint | None:
    """The newest checkpoint of the run in `output` whose manifest is readable; its tensors are not
    checked."""
    for path in reversed(list_checkpoints(output / "checkpoints")):
        try:
            return Checkpoint(path, read_manifest(path))
        except UserError:
            continue  # a damaged one, which the start of a run reports
    return None


def read_record(output: Path) -> StartRecord | None:
    """What the run in `output` started from; None where that is not recorded.

    Raises UserError for a damaged record.
    """
    path = output / START_NAME
    try:
        return StartRecord.model_validate(read_json(path))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise UserError(f"{path}: damaged: {first_error(error)}") from None


def write_record(output: Path, record: StartRecord) -> None:
    """Writes down what the run in `output` starts from, for its later starts."""
    write_atomic(output / START_NAME, record.model_dump_json(indent=1) + "\n")


def check_moved_start(config: FromRun | FromHuggingFace, record: StartRecord, output: Path) -> None:
    """Raises UserError if ``start.path`` was changed to a folder with different weights.

    At its first path the start may have been trained on; at a new path it must be the same.
    """
    path = config.path
    if str(path) == record.path or not path.exists():
        return
    if record.fingerprint not in weights_in(config):
        raise UserError(
            f"start.path: {path} does not hold the weights that {output} started from "
            f"({record.description}): restore start.path, or choose a new output folder"
        )
