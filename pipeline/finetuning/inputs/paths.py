"""The files that a config names: paths, globs, and folders of Hugging Face `datasets`."""

import errno
import glob
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from configs.load import ConfigError, UserError

_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}")
_ENDING = ".parquet"


def files_of(patterns: Sequence[str | Path]) -> list[Path]:
    """The files of all `patterns`, in their order; those of a glob or a folder sorted by name.

    Raises UserError for what does not exist or is a folder of something else.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        found |= dict.fromkeys(_files_of(str(pattern)))
    return list(found)


def _files_of(pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.is_dir():
        return _files_in(path)
    if os.path.lexists(path) or not glob.has_magic(pattern):
        try:
            path.stat()
        except OSError as error:
            raise UserError(f"{path}: {os.strerror(error.errno or 0).lower()}") from None
        return [path]
    found = sorted(Path(name) for name in glob.glob(pattern, recursive=True))
    files = [path for path in found if path.is_file()]
    if not files:
        raise UserError(f"{pattern}: no file matches")
    return files


def _files_in(folder: Path) -> list[Path]:
    """The files of a folder that `datasets` saved, or of Parquet files of one split."""
    if (folder / "dataset_dict.json").exists():
        splits = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_dir()))
        raise ConfigError(f"{folder}: holds several splits ({splits}): name one, {folder}/SPLIT")
    if (folder / "state.json").exists():
        return _saved_files(folder)
    files = sorted(folder.glob(f"*{_ENDING}"))
    if not files:
        raise UserError(
            f"{folder}: {os.strerror(errno.EISDIR).lower()}, without a data set that `datasets` "
            "saved (state.json) and without .parquet files"
        )
    names = {found[1] if (found := _SHARD.fullmatch(p.stem)) else p.stem for p in files}
    if len(names) > 1:
        shown = ", ".join(sorted(names))
        raise ConfigError(
            f"{folder}: its .parquet files are of several splits ({shown}): name one, "
            f"{folder}/SPLIT-*.parquet"
        )
    return files


def _saved_files(folder: Path) -> list[Path]:
    path = folder / "state.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        names = [entry["filename"] for entry in state["_data_files"]]
        indices = state.get("_indices_data_files") or state.get("_indices_files")
    except OSError as error:
        raise UserError(f"{path}: {os.strerror(error.errno or 0).lower()}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: not what `datasets` writes there") from None
    if indices:
        raise UserError(
            f"{folder}: a selection of rows, not the rows themselves: save it again after "
            "`flatten_indices()`"
        )
    files = [folder / Path(name).name for name in names]
    for file in files:
        if not file.exists():
            raise UserError(f"{file}: missing, {path} names it")
    return files
