"""Where temporary files of parts are."""

import os
from collections.abc import Mapping
from pathlib import Path

from configs.load import UserError

VARIABLE = "DATA_PREP_SCRATCH"
"""Environment variable that names a folder on a disk of each node: the work folder is on a file
system that all nodes share, which is usually slower."""


def scratch_folder(default: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """The folder that the environment names, `default` if it names none."""
    named = environment.get(VARIABLE, "")
    if not named:
        return default
    folder = Path(named)
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(
            f"{VARIABLE}: {folder} is no folder of this machine that can be written; create it on "
            "every node, or unset the variable"
        )
    return folder
