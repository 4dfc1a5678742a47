"""Writes the key of a Dask scheduler: ``python -m data_prep.scheduler_key FOLDER``.

FOLDER is made for it (mode 0700) and gets ``cert.pem`` and ``key.pem`` (mode 0600), with which the
scheduler, its workers and `data_prep.run` are started. Whoever can read them can run code on the
workers.
"""

import os
from pathlib import Path

from configs import command
from configs.load import UserError
from data_prep.engine.workers import new_scheduler_key


def main() -> None:
    """Writes a new key to the folder that the command line names."""
    parser = command.plain_parser(__doc__ or "")
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="folder that is made for the key"
    )
    write_scheduler_key(parser.parse_args().folder)


def write_scheduler_key(folder: Path) -> None:
    """Writes a new key to `folder`; raises UserError if the folder exists, as others might be able
    to read or change it."""
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        raise UserError(f"{folder}: exists already; name a folder that does not") from None
    except FileNotFoundError:
        raise UserError(f"{folder}: its parent folder does not exist") from None
    for name, text in new_scheduler_key().items():
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(text)


if __name__ == "__main__":
    command.run(main)
