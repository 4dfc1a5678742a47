"""Writes an exported folder and publishes it only after its outputs were compared with ours."""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from configs.load import UserError
from data_prep.dataset.atomic import fsync_folder
from pipeline.checkpoint.manifest import Checkpoint
from pipeline.checkpoint.reader import TensorReader
from pipeline.hugging_face.card_file import is_edited
from pipeline.hugging_face.folder import (
    CARD_NAME,
    CONFIG_NAME,
    PARITY_TOLERANCE,
    WEIGHTS_NAME,
    ExportedTokenizer,
    ExportSource,
    Quantity,
    write_parity,
)

EDITED_CARD_NAME = "README.edited.md"

logger = logging.getLogger(__name__)


def read_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """All weights of a checkpoint: full tensors in fp32 without padding, by canonical name."""
    reader = TensorReader(checkpoint)
    return {name: reader.full("weight", name) for name in checkpoint.manifest.parameters}


def publish(
    folder: Path,
    *,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    tokenizer: ExportedTokenizer,
    source: ExportSource,
    quantity: Quantity,
    compare: Callable[[Path], Mapping[str, float]],
    card: Callable[[Mapping[str, float]], str],
    write_more: Callable[[Path], None] | None = None,
) -> float:
    """Writes an export to `folder`, replacing an older one; the largest difference of an output.

    `tensors` and `config` are those of Hugging Face; `write_more` adds files. `compare` returns the
    largest differences between what a folder computes and the trained model by quantity, `quantity`
    and what was added; `card` makes a model card of them. A card that was edited by hand is kept as
    ``README.edited.md``. Raises UserError, leaving an older export as it was, if a difference is
    more than rounding.
    """
    unfinished = folder.with_name(f".{folder.name}-unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, unfinished / WEIGHTS_NAME, metadata={"format": "pt"})
    special = {key: number for key, number in tokenizer.special_ids().items() if key in config}
    tree = {**config, **special, "dtype": "float32"}
    (unfinished / CONFIG_NAME).write_text(json.dumps(tree, indent=2) + "\n")
    tokenizer.write(unfinished)
    # safetensors sets 0600: the weights get the mode that any new file has here.
    (unfinished / WEIGHTS_NAME).chmod((unfinished / CONFIG_NAME).stat().st_mode & 0o777)
    if write_more is not None:
        write_more(unfinished)
    found = compare(unfinished)
    for what, difference in found.items():
        if not difference <= PARITY_TOLERANCE:
            raise UserError(
                f"{unfinished}: not exported: its {what}s differ by {difference:.1e} from the "
                f"trained model's, more than {PARITY_TOLERANCE:.0e}"
            )
    (unfinished / CARD_NAME).write_text(card(found), encoding="utf-8")
    others = {what: difference for what, difference in found.items() if what != quantity}
    write_parity(unfinished, source, found[quantity], quantity, others)
    _keep_edited_card(folder, unfinished)
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.rename(folder)
    fsync_folder(folder.parent)
    return max(found.values())


def _keep_edited_card(old: Path, new: Path) -> None:
    """Copies what a user wrote in the card of an older export, which is about to be replaced."""
    cards = [old / EDITED_CARD_NAME]
    if (old / CARD_NAME).is_file() and is_edited(old / CARD_NAME):
        cards = [old / CARD_NAME]
        logger.warning(
            "%s was edited; it is kept as %s beside the new one",
            *(old / CARD_NAME, EDITED_CARD_NAME),
        )
    for card in cards:
        if card.is_file():
            shutil.copyfile(card, new / EDITED_CARD_NAME)
