"""The pretrained weights and the tokenizer that a fine-tuning run starts from."""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from configs.load import UserError, fingerprint, validate
from data_prep.dataset.manifest import SpecialTokens, file_sha256
from data_prep.dataset.special_tokens import find_special_tokens
from data_prep.dataset.tokenizer import load_tokenizer, num_ids, same_tokenizer
from model.config import ModelConfig
from model.parallel.grid import Grid
from model.parameters import ParameterSpec, parameter_specs, shard_tensor
from pipeline.checkpoint.manifest import (
    Checkpoint,
    CheckpointManifest,
    checkpoint_folder,
    list_checkpoints,
    read_manifest,
    verify,
)
from pipeline.checkpoint.reader import TensorReader, check_checkpoint
from pipeline.checkpoint.stored_model import stored_model
from pipeline.checkpoint.tokenizer import special_tokens_of, tokenizer_of
from pipeline.data.config import DataConfig
from pipeline.data.shard_cache import open_data_set
from pipeline.finetuning.config import FromHuggingFace, FromRun, StartConfig
from pipeline.hugging_face.vocabulary import has_vocabulary, read_vocabulary, vocabulary_errors

if TYPE_CHECKING:
    from pipeline.hugging_face.weights import HfModel

PRETRAINED = ("encoder.", "head.")
"""Parameters that are taken from the start; pooler and task heads start at random."""
_TRANSFORM = re.compile(r"transforms\.[^.]+\.")
"""The layers before a task's output, which start from those of the masked-language-model head."""


@dataclass(frozen=True)
class Start:
    """A pretrained model, its weights still on disk or in host memory."""

    model: ModelConfig
    vocab_size: int
    tokenizer: Path
    tokenizer_sha256: str
    special: SpecialTokens
    """Ids of the special tokens."""
    description: str
    """What it is, for log lines and for MLflow."""
    fingerprint: str
    """Hash of the weights."""
    checkpoint: Checkpoint | None = None
    tensors: Mapping[str, Tensor] | None = None

    @property
    def has_weights(self) -> bool:
        """False for a run that resumes: its own checkpoints hold the weights."""
        return self.checkpoint is not None or self.tensors is not None

    def load(self, model: nn.Module, grid: Grid) -> list[str]:
        """Copies this rank's shards of the weights into `model`; the parameters without any."""
        specs = {n: s for n, s in parameter_specs(model).items() if n.startswith(PRETRAINED)}
        reader = None
        if self.checkpoint is not None:
            check_checkpoint(_pretrained(self.checkpoint.manifest), specs, self.tokenizer_sha256)
            reader = TensorReader(self.checkpoint)
        missing = []
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                value, pretrained = None, _TRANSFORM.sub("head.", name)
                if pretrained in specs:
                    value = self._shard(reader, pretrained, specs[pretrained], grid)
                if value is None:
                    missing.append(name)
                else:
                    parameter.copy_(value)
        return missing

    def _shard(
        self, reader: TensorReader | None, name: str, spec: ParameterSpec, grid: Grid
    ) -> Tensor | None:
        if reader is not None:
            return reader.local("weight", name, spec, *grid.tp_shard)
        assert self.tensors is not None
        if name not in self.tensors:
            return None
        return shard_tensor(spec, self.tensors[name].float(), *grid.tp_shard)


def read_start(config: StartConfig, check_hashes: bool) -> Start:
    """The model that `config` names; its files are hashed if `check_hashes`.

    Raises UserError for a folder without a complete checkpoint, weights that do not fit, and a
    tokenizer that is not the model's.
    """
    if isinstance(config, FromHuggingFace):
        return _from_hugging_face(config)
    return _from_run(config, check_hashes)


def _from_run(config: FromRun, check_hashes: bool) -> Start:
    folder = config.path / "checkpoints"
    if config.step is not None:
        path = checkpoint_folder(folder, config.step)
        checkpoint = Checkpoint(path, verify(path) if check_hashes else read_manifest(path))
    else:
        found = list_checkpoints(folder)
        if not found:
            raise UserError(f"{folder}: no checkpoint: train first, or correct start.path")
        checkpoint = Checkpoint(found[-1], read_manifest(found[-1]))
        if check_hashes:
            verify(checkpoint.path)
    manifest = checkpoint.manifest
    tokenizer = _tokenizer_of_run(config, checkpoint)
    return Start(
        stored_model(checkpoint),
        manifest.vocab_size,
        tokenizer,
        _tokenizer_hash(tokenizer, manifest.vocab_size),
        special_tokens_of(checkpoint, tokenizer),
        description=f"{checkpoint.path.resolve()} (step {manifest.step})",
        fingerprint=_fingerprint_of(manifest),
        checkpoint=checkpoint,
    )


def weights_in(config: StartConfig) -> set[str]:
    """The fingerprints (`Start.fingerprint`) of all weights in the folder of a start."""
    if isinstance(config, FromHuggingFace):
        return {_hugging_face_fingerprint(config.path)}
    found = set()
    for path in list_checkpoints(config.path / "checkpoints"):
        with contextlib.suppress(UserError):  # a damaged one
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


def _pretrained(manifest: CheckpointManifest) -> CheckpointManifest:
    """Without the pooler and the task heads of a fine-tuned model."""
    kept = {n: p for n, p in manifest.parameters.items() if n.startswith(PRETRAINED)}
    return manifest.model_copy(update={"parameters": kept})


def _from_hugging_face(config: FromHuggingFace) -> Start:
    from pipeline.hugging_face.weights import read_hf_folder

    hf = read_hf_folder(config.path, config.leave_out)
    tokenizer = config.tokenizer or config.path / "tokenizer.json"
    special = _check_vocabulary(config.path, tokenizer, hf)
    return Start(
        hf.config,
        hf.vocab_size,
        tokenizer,
        _tokenizer_hash(tokenizer, hf.vocab_size),
        special,
        description=f"{config.path.resolve()} ({hf.family.model_type} layout)",
        fingerprint=_hugging_face_fingerprint(config.path),
        tensors=hf.state,
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
