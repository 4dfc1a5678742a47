"""Whether the folder of a run can be written, before anything is read or computed for it."""

import os
from pathlib import Path

from configs.load import ConfigError


def check_output(output: Path) -> None:
    """Makes nothing; raises ConfigError if `output` is, or lies below, what is no writable folder.

    Rank 0 alone reports it, since every rank finds it.
    """
    for folder in (output / "checkpoints", output, *output.absolute().parents):
        try:
            os.stat(folder)
        except (FileNotFoundError, NotADirectoryError):
            if folder.is_symlink():
                raise ConfigError(f"output {output}: {folder} is a link to nothing") from None
            continue
        except OSError as error:
            raise ConfigError(f"output {output}: {folder}: {error.strerror}") from None
        if not folder.is_dir():
            raise ConfigError(f"output {output}: {folder} is no folder: choose a different output")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(
                f"output {output}: {folder} cannot be written: check its owner and its permissions"
            )
        if folder == output or folder in output.absolute().parents:
            return
