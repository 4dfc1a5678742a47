"""Puts the weights of a start into a model, at any grid: as they are, tiled, or extended."""

import logging
import re
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from configs.load import UserError
from data_prep.dataset.manifest import SpecialTokens
from data_prep.dataset.tokenizer import load_tokenizer
from model.config import ModelConfig
from model.extended_vocabulary import AuxiliaryVectors, Method, TokenMixtures, token_mixtures
from model.parallel.grid import Grid
from model.parameters import ParameterSpec, parameter_specs, shard_tensor
from pipeline.checkpoint.manifest import CheckpointManifest
from pipeline.checkpoint.newest import problem_of_any_rank
from pipeline.checkpoint.reader import TensorReader, check_checkpoint
from pipeline.start.architecture import GROWING, shape_differences
from pipeline.start.config import PRETRAINED
from pipeline.start.start import Start
from pipeline.start.tiling import Tiling

EVERYTHING = ("",)
"""All parameters that the start has too."""
OF_TOKENS = ("encoder.embeddings.word.weight", "head.decoder.weight", "head.bias")
"""Parameters with a row for each token."""
_TRANSFORM = re.compile(r"transforms\.[^.]+\.")
"""The layers before a task's output, which start from those of the masked-language-model head."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NewVocabulary:
    """The vocabulary of a run that is not that of its start."""

    tokenizer: Path
    vocab_size: int
    special: SpecialTokens
    method: Method
    auxiliary: AuxiliaryVectors | None
    """Vectors of its tokens, for the method ``focus``."""
    seed: int

    def mixtures(self, start: Start) -> TokenMixtures:
        """What each of its tokens starts from."""
        roles = ("bos", "pad", "eos", "unk", "mask")
        pairs = [(getattr(self.special, role), getattr(start.special, role)) for role in roles]
        return token_mixtures(
            load_tokenizer(start.tokenizer),
            load_tokenizer(self.tokenizer),
            self.method,
            self.seed,
            old_size=start.vocab_size,
            new_size=self.vocab_size,
            special={new: old for new, old in pairs if new is not None and old is not None},
            auxiliary=self.auxiliary,
        )


def load_start(
    start: Start,
    model: nn.Module,
    grid: Grid,
    prefixes: tuple[str, ...] = PRETRAINED,
    now: ModelConfig | None = None,
    vocabulary: NewVocabulary | None = None,
) -> list[str]:
    """Copies this rank's shards of the weights into `model`; the parameters without any.

    Taken are parameters whose names start with one of `prefixes`. `now` is the config of `model`,
    if it may be larger than that of the start. A collective: every rank first hashes its share of
    the files of a checkpoint. Raises UserError for a damaged one, and for a start that lacks a part
    of the encoder or of its head, or has it in a different shape.
    """
    if start.checkpoint is not None:
        problem = problem_of_any_rank(start.checkpoint, grid)
        if problem is not None:
            raise UserError(f"{problem}; restore it, or choose another step by start.step")
    specs = {n: s for n, s in parameter_specs(model).items() if n.startswith(prefixes)}
    changed = shape_differences(start.model, now) if now is not None else []
    if vocabulary is not None or any(found.path in GROWING for found in changed):
        shard = _changed_shards(start, specs, grid, now or start.model, vocabulary)
    else:
        shard = _shards(start, specs, grid)
    missing = []
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value, source = None, _TRANSFORM.sub("head.", name)
            if source in specs:
                value = shard(source)
            if value is None:
                missing.append(name)
            else:
                parameter.copy_(value)
    return missing


def _shards(
    start: Start, specs: dict[str, ParameterSpec], grid: Grid
) -> Callable[[str], Tensor | None]:
    """By name, this rank's shard of a parameter; None where the start lacks it."""
    if start.checkpoint is not None:
        manifest = start.checkpoint.manifest
        needed = _needed(manifest)
        shared = {
            n: s for n, s in specs.items() if n in manifest.parameters or n.startswith(needed)
        }
        check_checkpoint(_only(manifest, shared), shared, start.tokenizer_sha256)
        reader = TensorReader(start.checkpoint)

        def stored(name: str) -> Tensor | None:
            if name not in shared:
                return None
            return reader.local("weight", name, specs[name], *grid.tp_shard)

        return stored
    tensors = start.tensors
    assert tensors is not None

    def shard(name: str) -> Tensor | None:
        if name not in tensors:
            return None
        return shard_tensor(specs[name], tensors[name].float(), *grid.tp_shard)

    return shard


def _changed_shards(
    start: Start,
    specs: dict[str, ParameterSpec],
    grid: Grid,
    now: ModelConfig,
    vocabulary: NewVocabulary | None,
) -> Callable[[str], Tensor | None]:
    """As `_shards`, of tensors with new tokens and of larger sizes: those of `PRETRAINED`."""
    tiling, whole = Tiling(start.model, now), _whole_tensors(start)
    taken = {n for n in specs if n.startswith(PRETRAINED) and not tiling.is_new(n)}
    if start.checkpoint is not None:
        manifest = start.checkpoint.manifest
        absent = set(map(tiling.source, taken)) - manifest.parameters.keys()
        if lost := {name for name in absent if name.startswith(_needed(manifest))}:
            raise UserError(f"{start.description}: no parameter {', '.join(sorted(lost))}")
    mixtures = None
    if vocabulary is not None:
        mixtures = vocabulary.mixtures(start)
        logger.info("vocabulary of %d: %s", vocabulary.vocab_size, mixtures.summary())

    def shard(name: str) -> Tensor | None:
        full = whole(tiling.source(name)) if name in taken else None
        if full is None:
            return None
        if mixtures is not None and name in OF_TOKENS:
            full = torch.from_numpy(mixtures.vectors(full.numpy()))
        spec = specs[name]
        return shard_tensor(spec, tiling.tiled(name, full, spec.full_shape), *grid.tp_shard)

    return shard


def _whole_tensors(start: Start) -> Callable[[str], Tensor | None]:
    """By name, a whole parameter of the start in fp32; None where it lacks it."""
    if start.checkpoint is not None:
        reader, names = TensorReader(start.checkpoint), start.checkpoint.manifest.parameters
        return lambda name: reader.full("weight", name) if name in names else None
    tensors = start.tensors
    assert tensors is not None
    return lambda name: tensors[name].float() if name in tensors else None


def _needed(manifest: CheckpointManifest) -> tuple[str, ...]:
    """What the names of parameters start with that a checkpoint has to hold: its head too, unless
    it has none, as after replaced-token detection with a generator."""
    return tuple(
        prefix
        for prefix in PRETRAINED
        if prefix == "encoder." or any(name.startswith(prefix) for name in manifest.parameters)
    )


def _only(manifest: CheckpointManifest, names: Container[str]) -> CheckpointManifest:
    """Without other parameters, such as the task heads of a fine-tuned model."""
    kept = {name: record for name, record in manifest.parameters.items() if name in names}
    return manifest.model_copy(update={"parameters": kept})
