"""The end of a run: writes tokenizer, report and manifest beside the shards, in that order."""

from pathlib import Path

from configs.load import UserError
from data_prep.dataset.atomic import PARTIAL_MARK, write_atomic
from data_prep.dataset.manifest import (
    MANIFEST_NAME,
    Manifest,
    TokenizerFile,
    file_sha256,
    read_manifest,
    write_manifest,
)
from data_prep.packing.rows import RowsStage, manifest_of
from data_prep.preparation import Preparation
from data_prep.report.data import write_report
from data_prep.tokenization.tokenizer import TOKENIZER_FILE, TokenizerStage, parent_sha256


def withdraw(output: Path) -> None:
    """Removes the manifest of `output`: its rows are going to be made again."""
    (output / MANIFEST_NAME).unlink(missing_ok=True)


def withdraw_if_different(output: Path, stage: RowsStage) -> None:
    """Removes the manifest of `output` if it describes different rows than `stage` writes."""
    path = output / MANIFEST_NAME
    if not path.exists():
        return
    try:
        is_same = read_manifest(output).stages.get(stage.name) == stage.content_fingerprint
    except UserError:  # damaged, or of a different version: it does not describe these rows
        is_same = False
    if not is_same:
        withdraw(output)


def is_published(output: Path) -> bool:
    """Whether report and manifest of the rows exist."""
    return (output / MANIFEST_NAME).exists() and (output / "report.html").exists()


def publish(run: Preparation) -> None:
    """Writes tokenizer.json, report and manifest.json."""
    output = run.config.output
    trained = run.result(TokenizerStage).folder / TOKENIZER_FILE
    write_atomic(output / "tokenizer.json", trained.read_bytes())
    manifest = manifest_of(
        run.result(RowsStage),
        run.config.pack,
        run.streams,
        run.special_tokens,
        run.vocab_size,
        TokenizerFile(
            path="tokenizer.json",
            sha256=file_sha256(output / "tokenizer.json"),
            parent_sha256=parent_sha256(run.result(TokenizerStage)),
        ),
        run.fingerprints,
    )
    write_report(output, run.report_inputs(), manifest)
    write_manifest(output, manifest)
    _remove_leftovers(output / "shards", {Path(path).name for path in _shard_paths(manifest)})


def _shard_paths(manifest: Manifest) -> list[str]:
    return [
        shard.path
        for sources in manifest.splits.values()
        for source in sources.values()
        for shard in source.shards
    ]


def _remove_leftovers(folder: Path, known: set[str]) -> None:
    """Removes shards of an earlier data set, and partial files of processes that were killed."""
    for path in folder.glob("*"):
        if path.name not in known and (path.suffix == ".tar" or PARTIAL_MARK in path.name):
            path.unlink()
