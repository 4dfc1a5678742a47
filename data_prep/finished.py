"""Finished rows whose work folder was deleted: are they what a config asks for?

Beside the manifest, ``request.json`` names the settings and the input files that the rows were made
of. While these are the same and the shards are whole, nothing has to be done again.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

from configs.load import UserError, fingerprint
from data_prep.config import DataConfig
from data_prep.dataset.atomic import write_atomic
from data_prep.dataset.manifest import Manifest, read_manifest
from data_prep.dataset.verify import verify_shards
from data_prep.readers.files import SourceFile, list_files
from data_prep.stages import STAGES
from data_prep.tokenization.config import TrainTokenizerConfig

logger = logging.getLogger(__name__)

REQUEST_NAME = "request.json"
_WITHOUT_EFFECT = {"output", "work", "engine", "part_mb"}


def write_request(config: DataConfig, manifest: Manifest) -> None:
    """Writes what the rows of `manifest` were made of."""
    request = {"manifest": manifest.fingerprint, "request": _request_of(config)}
    write_atomic(config.output / REQUEST_NAME, json.dumps(request) + "\n")


def is_finished_without_work(config: DataConfig) -> bool:
    """Whether there is no work, and the output is whole and of the same settings and files.

    Logs why an output that is there is not taken over.
    """
    if any((config.work / entry.name).exists() for entry in STAGES):
        return False
    try:
        manifest = read_manifest(config.output)
        request = json.loads((config.output / REQUEST_NAME).read_bytes())
        if request != {"manifest": manifest.fingerprint, "request": _request_of(config)}:
            logger.warning(
                "%s holds rows of other settings or files, which are going to be replaced",
                config.output,
            )
            return False
        verify_shards(config.output, manifest)
    except (FileNotFoundError, ValueError):
        return False
    except UserError as error:
        if config.output.exists():
            logger.warning("%s", error)
        return False
    return True


def _request_of(config: DataConfig) -> str:
    settings = config.model_dump(mode="json", exclude=_WITHOUT_EFFECT)
    return fingerprint([settings, [astuple(file) for file in _input_files(config)]])


def _input_files(config: DataConfig) -> Iterator[SourceFile]:
    """All files that the config names, with their sizes and times."""
    for name, source in config.sources.items():
        yield from list_files(source.reader.files, f"sources.{name}.reader.files")
    if config.decontaminate is not None:
        for name, reader in config.decontaminate.evaluation.items():
            yield from list_files(reader.files, f"decontaminate.evaluation.{name}.files")
    if not isinstance(config.tokenizer, TrainTokenizerConfig):
        for key, path in config.tokenizer.model_dump(exclude={"type"}).items():
            if isinstance(path, str | Path):
                yield from list_files([str(path)], f"tokenizer.{key}")
