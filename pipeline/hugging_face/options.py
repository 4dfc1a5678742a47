"""What an export adds to the Hugging Face folder, and whether a folder has it. Imports no torch."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs.load import UserError
from data_prep.dataset.files import read_json
from pipeline.checkpoint.manifest import Checkpoint
from pipeline.hugging_face.folder import PARITY_NAME, foreign_files, is_exported

PoolingChoice = Literal["first", "mean", "none"]
"""The vector of a text: the first token's, the mean of all tokens', or no such vector."""
POOLINGS: tuple[PoolingChoice, ...] = ("first", "mean", "none")
SENTENCE_ENCODER = "sentence-encoder"
"""The folder of a fine-tuned encoder with its pooler; no task can have this name."""
POOLING_NAME = "1_Pooling/config.json"
ONNX_NAME = "model.onnx"
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class ExportOptions:
    """The additions that a user asks for."""

    pooling: PoolingChoice | None = None
    """Of the sentence-transformers files; None: pretraining takes `model.pooler`, fine-tuning
    writes none."""
    onnx: bool = False
    """Whether model.onnx is written."""
    again: bool = False
    """Whether a folder that holds the export already is written again."""

    def check_packages(self) -> None:
        """Raises UserError that names missing optional packages."""
        names = ONNX_PACKAGES if self.onnx else ()
        if missing := [name for name in names if importlib.util.find_spec(name) is None]:
            raise UserError(
                f"--onnx needs the packages {', '.join(missing)}: pip install "
                f"{' '.join(missing)} (or 'encoder-pretraining[onnx]'), or leave --onnx out"
            )

    def are_exported(self, folder: Path, checkpoint: Checkpoint, pooling: PoolingChoice) -> bool:
        """Whether `folder` holds the export of `checkpoint` with these additions and `pooling`, and
        nobody wants it `again`."""
        if self.again:
            return False
        names = [ONNX_NAME] if self.onnx else []
        return is_exported(folder, checkpoint, names) and written_pooling(folder) == pooling


def written_pooling(folder: Path) -> PoolingChoice:
    """The pooling of the sentence-transformers files in an export."""
    path = folder / POOLING_NAME
    if not path.is_file():
        return "none"
    return "first" if read_json(path).get("pooling_mode_cls_token") else "mean"


def check_target(folder: Path) -> None:
    """Raises UserError if `folder` holds files that are not an export, which would replace them."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: not a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / PARITY_NAME).is_file():
        raise UserError(
            f"{folder}: holds files that are not an export (no {PARITY_NAME}); choose a new folder"
        )
    if foreign := foreign_files(folder):
        raise UserError(
            f"{folder}: besides an export it holds {', '.join(foreign[:3])}"
            f"{', ...' * (len(foreign) > 3)}, which would be removed: move what you need"
        )
