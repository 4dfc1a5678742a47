"""Writes an exported folder and publishes it only after its outputs were compared with ours."""

import itertools
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
    NOTES_SUFFIX,
    PARITY_NAME,
    PARITY_TOLERANCE,
    WEIGHTS_NAME,
    ExportedTokenizer,
    ExportSource,
    Quantity,
    foreign_files,
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
    ``README.edited.md``, other notes under their names; a folder that holds more than an export
    is moved aside. Raises UserError, leaving an older export as it was, if a difference is more
    than rounding.
    """
    # A link or ".." in the path could lead to a folder that was never checked.
    folder = folder.resolve()
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
    _keep_notes(folder, unfinished)
    _make_way(folder)
    unfinished.rename(folder)
    fsync_folder(folder.parent)
    return max(found.values())


def _keep_notes(old: Path, new: Path) -> None:
    """Copies what a user wrote beside an older export, which is about to be replaced."""
    for note in sorted(old.rglob(f"*{NOTES_SUFFIX}")):
        name = note.relative_to(old)
        if note == old / CARD_NAME:
            if not is_edited(note):
                continue
            name = Path(EDITED_CARD_NAME)
            logger.warning("%s was edited; it is kept as %s beside the new one", note, name)
        elif note == old / EDITED_CARD_NAME and (new / EDITED_CARD_NAME).exists():
            continue  # the card that was edited last counts
        if note.is_file():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(note, new / name)


def _make_way(folder: Path) -> None:
    """Removes an older export; moves aside what holds anything else."""
    if not folder.exists():
        return
    is_empty = folder.is_dir() and not any(folder.iterdir())
    if is_empty or ((folder / PARITY_NAME).is_file() and not foreign_files(folder)):
        shutil.rmtree(folder)
        return
    aside = next(
        path
        for number in itertools.count(1)
        if not (path := folder.with_name(f"{folder.name}-before-{number}")).exists()
    )
    folder.rename(aside)
    logger.warning("%s held files that are no export: moved to %s", folder, aside)
