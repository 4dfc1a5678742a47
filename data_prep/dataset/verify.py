"""Checks the files of a data set against its manifest."""

from pathlib import Path

from configs.load import UserError
from data_prep.dataset.manifest import MANIFEST_NAME, Manifest, Shard, file_sha256


def verify_shards(folder: str | Path, manifest: Manifest, *, full: bool = False) -> None:
    """Checks every file of the data set: sizes, or with `full` also the sha256 of every byte.

    Raises one UserError that names all missing and wrong files.
    """
    problems = []
    tokenizer = Path(folder) / manifest.tokenizer.path
    if not tokenizer.is_file():
        problems.append(f"{manifest.tokenizer.path}: missing")
    elif file_sha256(tokenizer) != manifest.tokenizer.sha256:
        problems.append(f"{manifest.tokenizer.path}: its sha256 is not the manifest's")
    for sources in manifest.splits.values():
        for source in sources.values():
            for shard in source.shards:
                problem = _shard_problem(Path(folder), shard, full)
                if problem:
                    problems.append(f"{shard.path}: {problem}")
    if problems:
        raise UserError(
            f"{folder}: {len(problems)} file(s) differ from {MANIFEST_NAME}:\n"
            + "\n".join(f"  {problem}" for problem in problems)
            + "\nrestore them from a copy, or delete them and run data preparation again"
        )


def _shard_problem(folder: Path, shard: Shard, full: bool) -> str | None:
    path = folder / shard.path
    try:
        size = path.stat().st_size
    except OSError as error:
        return "missing" if isinstance(error, FileNotFoundError) else str(error.strerror)
    if size != shard.bytes:
        return f"{size:,} bytes instead of {shard.bytes:,}"
    if full and file_sha256(path) != shard.sha256:
        return "its sha256 is not the manifest's (damaged bytes)"
    return None
