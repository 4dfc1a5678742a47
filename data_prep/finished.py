"""Finished rows whose work folder was deleted: are they what a config asks for?

Beside the manifest, ``request.json`` names the settings and the input files that the rows were made
of. While these are the same and the shards are whole, nothing has to be done again.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from configs.load import UserError, fingerprint
from data_prep.config import DataConfig
from data_prep.dataset.atomic import write_atomic
from data_prep.dataset.manifest import MANIFEST_NAME, read_manifest
from data_prep.dataset.special_tokens import FILES_BESIDE
from data_prep.dataset.verify import verify_shards
from data_prep.documents.ingest import IngestStage
from data_prep.filters.custom import settings_of
from data_prep.preparation import Preparation
from data_prep.readers.files import SourceFile, list_files
from data_prep.stages import STAGES
from data_prep.tokenization.config import TrainTokenizerConfig

logger = logging.getLogger(__name__)

REQUEST_NAME = "request.json"
_WITHOUT_EFFECT = {"output", "work", "engine", "part_mb"}


def write_request(run: Preparation) -> None:
    """Writes what the rows were made of, once the run is finished."""
    config = run.config
    files = (
        (part.source, span.file) for part in run.result(IngestStage).parts for span in part.spans
    )
    request = {
        "manifest": read_manifest(config.output).fingerprint,
        "request": _request_of(config, files),
    }
    path = config.output / REQUEST_NAME
    content = json.dumps(request) + "\n"
    if not path.exists() or path.read_text() != content:
        write_atomic(path, content)


def is_finished_without_work(config: DataConfig) -> bool:
    """Whether there is no work, and the output is whole and of the same settings and files.

    Logs why an output that is there is not taken over.
    """
    if any((config.work / entry.name).exists() for entry in STAGES):
        return False
    try:
        manifest = read_manifest(config.output)
        request = json.loads((config.output / REQUEST_NAME).read_bytes())
        wanted = _request_of(config, _source_files(config))
        if request != {"manifest": manifest.fingerprint, "request": wanted}:
            logger.warning(
                "%s holds rows of other settings or files, which are going to be replaced",
                config.output,
            )
            return False
        verify_shards(config.output, manifest)
    except (FileNotFoundError, ValueError):
        return False
    except UserError as error:
        if (config.output / MANIFEST_NAME).exists():
            logger.warning("%s", error)
        return False
    return True


def _request_of(config: DataConfig, files: Iterable[tuple[str, SourceFile]]) -> str:
    """A hash of the settings that matter and of all files, by source, with sizes and times."""
    settings = config.model_dump(mode="json", exclude=_WITHOUT_EFFECT)
    if config.pack.order_by is None:
        del settings["pack"]["order_by"]  # data sets of older versions were made without the key
    functions = [settings_of(config.filters_of(name).custom) for name in config.sources]
    known = {
        (source, file.path, file.num_bytes, file.modified)
        for source, file in chain(files, _other_files(config))
    }
    return fingerprint([settings, functions, sorted(known)])


def _source_files(config: DataConfig) -> Iterator[tuple[str, SourceFile]]:
    for name, source in config.sources.items():
        for file in list_files(source.reader.files, f"sources.{name}.reader.files"):
            yield name, file


def _other_files(config: DataConfig) -> Iterator[tuple[str, SourceFile]]:
    """Evaluation texts and tokenizer files."""
    if config.decontaminate is not None:
        for name, reader in config.decontaminate.evaluation.items():
            for file in list_files(reader.files, f"decontaminate.evaluation.{name}.files"):
                yield f"evaluation/{name}", file
    if not isinstance(config.tokenizer, TrainTokenizerConfig):
        for key, path in config.tokenizer.model_dump(exclude={"type"}).items():
            if isinstance(path, str | Path) and Path(path).is_file():
                beside = [Path(path).with_name(name) for name in FILES_BESIDE]
                names = [str(path), *(str(other) for other in beside if other.is_file())]
                for file in list_files(names, f"tokenizer.{key}"):
                    yield f"tokenizer/{key}", file
