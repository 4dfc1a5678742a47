"""Checks the files of a data set against its manifest."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from configs.load import UserError
from data_prep.dataset.files import is_missing, open_inside, with_name
from data_prep.dataset.manifest import MANIFEST_NAME, Manifest


def verify_shards(folder: str | Path, manifest: Manifest, *, full: bool = False) -> None:
    """Checks every file of the data set: sizes, or with `full` also the sha256 of every byte.

    Raises one UserError that names all missing and wrong files.
    """
    problems = []
    tokenizer = manifest.tokenizer
    problem = file_problem(Path(folder), tokenizer.path, None, tokenizer.sha256)
    if problem:
        problems.append(f"{tokenizer.path}: {problem}")
    for shard in manifest.shards():
        sha256 = shard.sha256 if full else None
        problem = file_problem(Path(folder), shard.path, shard.bytes, sha256)
        if problem:
            problems.append(f"{shard.path}: {problem}")
    if problems:
        raise files_differ(folder, problems)


def files_differ(folder: str | Path, problems: Sequence[str]) -> UserError:
    """The error about files of the data set in `folder`, a line of `problems` for each."""
    lines = "\n".join(f"  {problem}" for problem in problems)
    return UserError(
        f"{folder}: {len(problems)} file(s) differ from {MANIFEST_NAME}:\n{lines}\n"
        "restore them from a copy, or delete them and run data preparation again"
    )


def file_problem(
    folder: Path, name: str, wanted_bytes: int | None, sha256: str | None
) -> str | None:
    """`file_damage`, or that the file cannot be read."""
    try:
        return file_damage(folder, name, wanted_bytes, sha256)
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def file_damage(
    folder: Path, name: str, wanted_bytes: int | None, sha256: str | None
) -> str | None:
    """What is wrong with a file of a manifest; `wanted_bytes` and `sha256` None: not compared.

    Raises OSError for a file that is there and cannot be read.
    """
    try:
        with open_inside(folder, name) as file:
            size = os.fstat(file.fileno()).st_size
            if wanted_bytes is not None and size != wanted_bytes:
                return f"{size:,} bytes instead of {wanted_bytes:,}"
            if sha256 is not None and hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                return "its sha256 is not the manifest's (damaged bytes)"
    except OSError as error:
        if not is_missing(error):
            raise with_name(error, folder / name) from None
        is_absent = isinstance(error, FileNotFoundError)
        return "missing" if is_absent else f"cannot be read: {error.strerror}"
    except UserError as error:
        return str(error)
    return None
