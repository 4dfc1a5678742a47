"""Whether the folder of a run can be written, before anything is read or computed for it."""

from pathlib import Path

from configs.load import ConfigError
from configs.writable import why_not_writable


def check_output(output: Path) -> None:
    """Makes nothing; raises ConfigError if `output` is, or lies below, what is no writable folder.

    Rank 0 alone reports it, since every rank finds it.
    """
    for folder in (output / "checkpoints", output):
        if problem := why_not_writable(folder):
            raise ConfigError(f"output {output}: {problem}")
