"""Writes an exported folder and publishes it only after its outputs were compared with ours."""

import json
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
from pipeline.hugging_face.folder import (
    CONFIG_NAME,
    PARITY_TOLERANCE,
    WEIGHTS_NAME,
    ExportedTokenizer,
    ExportSource,
    Quantity,
    write_parity,
)


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
    compare: Callable[[Path], float],
) -> float:
    """Writes an export to `folder`, replacing an older one; the largest difference of an output.

    `tensors` and `config` are those of Hugging Face. `compare` returns the largest difference of a
    `quantity` between the model in a folder and the trained one. Raises UserError, leaving an older
    export as it was, if that is more than rounding.
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
    difference = compare(unfinished)
    if not difference <= PARITY_TOLERANCE:
        raise UserError(
            f"{unfinished}: not exported: its {quantity}s differ by {difference:.1e} from the "
            f"trained model's, more than {PARITY_TOLERANCE:.0e}"
        )
    write_parity(unfinished, source, difference, quantity)
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.rename(folder)
    fsync_folder(folder.parent)
    return difference
