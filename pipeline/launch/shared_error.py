"""A mistake that a rank finds after the ranks have met: told once, and known to all of them.

One rank may be alone with it. Its peers then fail in their collectives, and the launcher ends them
by signals; neither must look like a fault that another try could mend. So the first rank to find a
mistake leaves a file in the run's folder, by which peers and the Slurm job know.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.command import EXIT_USER_ERROR
from configs.load import UserError

MISTAKE_NAME = "MISTAKE"


@contextmanager
def told_once(output: Path, rank: int) -> Iterator[None]:
    """In this block the first UserError of all ranks goes on.

    Later ones, and the errors that follow from it in peers, become a silent exit with the code of a
    mistake.
    """
    try:
        yield
    except UserError as error:
        if not _note(output, f"rank {rank}: {error}\n"):
            raise SystemExit(EXIT_USER_ERROR) from None
        raise
    except Exception:
        if is_noted(output):
            raise SystemExit(EXIT_USER_ERROR) from None
        raise


def is_noted(output: Path) -> bool:
    """Whether a rank of the run in `output` found a mistake since `forget`."""
    return (output / MISTAKE_NAME).exists()


def forget(output: Path) -> None:
    """Begins anew; for rank 0 before the ranks meet."""
    (output / MISTAKE_NAME).unlink(missing_ok=True)


def _note(output: Path, text: str) -> bool:
    """Whether this rank is the first; also where that cannot be written down."""
    try:
        file = os.open(output / MISTAKE_NAME, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    except OSError:
        return True
    with os.fdopen(file, "w") as stream:
        stream.write(text)
    return True
