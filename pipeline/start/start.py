"""The pretrained model that a run starts from: its facts, and where its weights are.

Imports no torch; a Hugging Face folder is read by a module that does.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from configs.load import UserError, fingerprint, validate
from data_prep.dataset.manifest import SpecialTokens, file_sha256
from data_prep.dataset.special_tokens import find_special_tokens
from data_prep.dataset.tokenizer import load_tokenizer, num_ids, same_tokenizer
from model.config import ModelConfig
from pipeline.checkpoint.best import find_best
from pipeline.checkpoint.discriminator import with_plain_vectors
from pipeline.checkpoint.manifest import (
    MANIFEST_NAME,
    Checkpoint,
    CheckpointManifest,
    checkpoint_folder,
    list_checkpoints,
    read_manifest,
)
from pipeline.checkpoint.start_record import StartRecord
from pipeline.checkpoint.stored_model import stored_model
from pipeline.checkpoint.tokenizer import special_tokens_of, tokenizer_of
from pipeline.data.config import DataConfig
from pipeline.data.shard_cache import open_data_set
from pipeline.hugging_face.vocabulary import has_vocabulary, read_vocabulary, vocabulary_errors
from pipeline.start.config import FromHuggingFace, FromRun

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.hugging_face.weights import HfModel


@dataclass(frozen=True)
class Start:
    """A pretrained model, its weights still on disk or in host memory."""

    model: ModelConfig
    vocab_size: int
    tokenizer: Path
    tokenizer_sha256: str
    special: SpecialTokens
    """Ids of the special tokens."""
    record: StartRecord
    """What the run records of it."""
    checkpoint: Checkpoint | None = None
    tensors: "Mapping[str, Tensor] | None" = None
    """Full tensors by name, of a Hugging Face folder."""

    @property
    def description(self) -> str:
        """What it is, for log lines and for MLflow."""
        return self.record.description

    @property
    def fingerprint(self) -> str:
        """Hash of the weights."""
        return self.record.fingerprint

    @property
    def has_weights(self) -> bool:
        """False for a run that resumes: its own checkpoints hold the weights."""
        return self.checkpoint is not None or self.tensors is not None


def read_start(config: FromRun | FromHuggingFace, recorded: StartRecord | None = None) -> Start:
    """The model that `config` names; `load_start` checks the hashes of its files.

    `recorded`: of an earlier start of the same run; the weights have to be those. Raises UserError
    for a folder without the checkpoint, weights that do not fit, and a tokenizer that is not the
    model's.
    """
    if isinstance(config, FromHuggingFace):
        start = _from_hugging_face(config)
    else:
        start = _from_run(config, recorded)
    if recorded is not None and start.fingerprint != recorded.fingerprint:
        raise UserError(
            f"start.path: {config.path} does not hold the weights that this run started from "
            f"({recorded.description}): restore them, or choose a new output folder"
        )
    return start


def _from_run(config: FromRun, recorded: StartRecord | None) -> Start:
    checkpoint = with_plain_vectors(find_start(config, recorded))
    manifest = checkpoint.manifest
    tokenizer = _tokenizer_of_run(config, checkpoint)
    return Start(
        stored_model(checkpoint),
        manifest.vocab_size,
        tokenizer,
        _tokenizer_hash(tokenizer, manifest.vocab_size),
        special_tokens_of(checkpoint, tokenizer),
        record=record_of(config, checkpoint),
        checkpoint=checkpoint,
    )


def find_start(config: FromRun, recorded: StartRecord | None = None) -> Checkpoint:
    """The checkpoint that `config` names; its files are not checked.

    `recorded`: the one that an earlier start of the same run took. Raises UserError if it is not
    there, with the steps that are.
    """
    folder = config.path / "checkpoints"
    found = list_checkpoints(folder)
    if not found:
        raise UserError(f"{folder}: no checkpoint: {_advice_on_path(config.path)}")
    step = config.step if recorded is None or recorded.step is None else recorded.step
    if step == "best":
        best = find_best(folder, check_files=False)
        if best is None:
            raise UserError(
                f"{folder}: start.step best: no checkpoint there has a held-out loss; steps: "
                + _steps(found)
            )
        return best
    path = checkpoint_folder(folder, step) if isinstance(step, int) else found[-1]
    if path not in found:
        raise UserError(
            f"{folder}: no checkpoint of step {step} (start.step); steps: " + _steps(found)
        )
    return Checkpoint(path, read_manifest(path))


def _advice_on_path(path: Path) -> str:
    """What to do about a `path` that is no folder of a run with checkpoints."""
    if (path / MANIFEST_NAME).is_file() and path.parent.name == "checkpoints":
        step = path.name.removeprefix("step-").lstrip("0") or "0"
        return f"set start.path to the folder of the run, {path.parents[1]}, and start.step: {step}"
    if path.name == "checkpoints" and list_checkpoints(path):
        return f"set start.path to the folder of the run, {path.parent}"
    if (path / "config.json").is_file():
        return "a Hugging Face folder? Set start.type: hugging_face"
    return "train first, or correct start.path"


def _steps(found: list[Path]) -> str:
    return ", ".join(path.name.removeprefix("step-").lstrip("0") or "0" for path in found)


def record_of(config: FromRun, checkpoint: Checkpoint) -> StartRecord:
    """What a run that starts from `checkpoint` records."""
    manifest = checkpoint.manifest
    return StartRecord(
        path=str(config.path),
        description=f"{checkpoint.path.resolve()} (step {manifest.step})",
        fingerprint=_fingerprint_of(manifest),
        step=manifest.step,
        name=str(manifest.config.get("name")),
        data={"fingerprint": manifest.data_fingerprint, "paths": _data_paths(manifest)},
        tracking_run_id=manifest.tracking_run_id,
        averaged=manifest.averaged,
        start=manifest.start,
    )


def _data_paths(manifest: CheckpointManifest) -> list[str]:
    """Where the rows, or the examples, of a run were."""
    config = manifest.config
    rows = [config, *config.get("then", ()), config.get("mlm") or {}]
    paths = [phase["data"]["path"] for phase in rows if "data" in phase]
    return [*paths, *(task["train"] for task in config.get("tasks", {}).values())]


def weights_in(config: FromRun | FromHuggingFace) -> set[str]:
    """The fingerprints (`Start.fingerprint`) of all weights in the folder of a start."""
    if isinstance(config, FromHuggingFace):
        return {_hugging_face_fingerprint(config.path)}
    found = set()
    for path in list_checkpoints(config.path / "checkpoints"):
        with contextlib.suppress(UserError, OSError):  # damaged, or not readable
            found.add(_fingerprint_of(read_manifest(path)))
    return found


def _fingerprint_of(manifest: CheckpointManifest) -> str:
    return fingerprint([file.sha256 for file in manifest.files])


def _tokenizer_of_run(config: FromRun, checkpoint: Checkpoint) -> Path:
    """The checkpoint's own tokenizer if there is one, else the one of the config.

    Raises UserError if the config names a different one.
    """
    given, manifest = config.tokenizer, checkpoint.manifest
    if given is None:
        return tokenizer_of(checkpoint, partial(_beside_rows, checkpoint))
    if _tokenizer_hash(given, manifest.vocab_size) == manifest.tokenizer_sha256:
        return given
    if manifest.tokenizer is not None:
        own = tokenizer_of(checkpoint, lambda: given)
        if same_tokenizer(own, given):
            return own
    raise UserError(
        f"{given}: not the tokenizer that {checkpoint.path} was trained with: set start.tokenizer"
    )


def _beside_rows(checkpoint: Checkpoint) -> Path:
    """The tokenizer beside the rows that an older pretraining run was trained on."""
    data = checkpoint.manifest.config.get("data")
    if data is None:
        raise UserError(
            f"{checkpoint.path}: of an older fine-tuning run, which carries no tokenizer: set "
            "start.tokenizer"
        )
    rows = validate(data, DataConfig, str(checkpoint.path))
    return rows.path / open_data_set(rows).tokenizer.path


def _from_hugging_face(config: FromHuggingFace) -> Start:
    from pipeline.hugging_face.weights import read_hf_folder

    hf = read_hf_folder(config.path, config.leave_out, config.tokenizer)
    tokenizer = config.tokenizer or config.path / "tokenizer.json"
    special = _check_vocabulary(config.path, tokenizer, hf)
    record = record_of_folder(config.path, hf.family.model_type)
    return Start(
        hf.config,
        hf.vocab_size,
        tokenizer,
        _tokenizer_hash(tokenizer, hf.vocab_size),
        special,
        record=record,
        tensors=hf.state,
    )


def record_of_folder(folder: Path, family: str) -> StartRecord:
    """What a run that starts from a Hugging Face folder of `family` records."""
    return StartRecord(
        path=str(folder),
        description=f"{folder.resolve()} ({family} layout)",
        fingerprint=_hugging_face_fingerprint(folder),
        model_type=family,
    )


def _check_vocabulary(folder: Path, tokenizer: Path, hf: "HfModel") -> SpecialTokens:
    """The special tokens of a folder's model; UserError for a tokenizer that is not the model's."""
    rows = load_tokenizer(tokenizer)
    special = find_special_tokens(rows, tokenizer, vocab_size=max(hf.vocab_size, num_ids(rows)))
    theirs = read_vocabulary(folder, None if has_vocabulary(folder) else tokenizer)
    errors = list(vocabulary_errors(theirs, rows, special, hf.special_ids))
    if errors and num_ids(rows) == max(theirs.ids.values()) + 1:
        raise UserError(f"{tokenizer}: not the tokenizer of {folder}:\n  " + "\n  ".join(errors))
    return special


def _hugging_face_fingerprint(folder: Path) -> str:
    weights = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin"))
    return fingerprint([file_sha256(path) for path in weights])


def _tokenizer_hash(path: Path, vocab_size: int) -> str:
    size = num_ids(load_tokenizer(path))
    if size > vocab_size:  # fewer in a model whose vocabulary is padded
        raise UserError(
            f"{path}: has {size} ids, the model {vocab_size}: set start.tokenizer to the "
            "model's own tokenizer.json"
        )
    return file_sha256(path)
