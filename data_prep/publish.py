"""The end of a run: tokenizer, report and manifest beside the shards, in that order."""

from collections.abc import Mapping
from pathlib import Path

from configs.load import UserError
from data_prep.config import DataConfig
from data_prep.dataset.atomic import PARTIAL_MARK, write_atomic
from data_prep.dataset.manifest import (
    MANIFEST_NAME,
    Manifest,
    SpecialTokens,
    TokenizerFile,
    file_sha256,
    read_manifest,
    write_manifest,
)
from data_prep.engine.stages import StageResult
from data_prep.packing.id_stream import Streams
from data_prep.packing.rows import manifest_of
from data_prep.report.data import write_report


def withdraw_if_other(output: Path, rows_fingerprint: str) -> None:
    """Removes the manifest of `output` where it describes other rows than will be written now."""
    path = output / MANIFEST_NAME
    if not path.exists():
        return
    try:
        is_same = read_manifest(output).stages.get("rows") == rows_fingerprint
    except UserError:  # damaged, or of another version: it describes nothing that will be here
        is_same = False
    if not is_same:
        path.unlink()


def publish(
    config: DataConfig,
    results: Mapping[str, StageResult],
    special: SpecialTokens,
    streams: Streams,
) -> None:
    """Writes tokenizer.json, report and manifest.json, where they do not stand already."""
    output = config.output
    if (output / MANIFEST_NAME).exists() and (output / "report.html").exists():
        return
    trained = results["tokenizer"].folder / "tokenizer.tokenizer.json"
    write_atomic(output / "tokenizer.json", trained.read_bytes())
    manifest = manifest_of(
        results["rows"],
        config.pack,
        streams,
        special,
        TokenizerFile(path="tokenizer.json", sha256=file_sha256(output / "tokenizer.json")),
        {name: result.content_fingerprint for name, result in results.items()},
    )
    write_report(output, config, results, manifest)
    write_manifest(output, manifest)
    _remove_leftovers(output / "shards", {Path(s).name for s in _shard_paths(manifest)})


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
