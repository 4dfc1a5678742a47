"""Puts the weights of a start into a model, at any grid and as they are."""

import re

import torch
from torch import Tensor, nn

from model.parallel.grid import Grid
from model.parameters import ParameterSpec, parameter_specs, shard_tensor
from pipeline.checkpoint.manifest import CheckpointManifest
from pipeline.checkpoint.reader import TensorReader, check_checkpoint
from pipeline.start.start import Start

PRETRAINED = ("encoder.", "head.")
"""Parameters that are taken from the start; pooler and task heads start at random."""
_TRANSFORM = re.compile(r"transforms\.[^.]+\.")
"""The layers before a task's output, which start from those of the masked-language-model head."""


def load_start(start: Start, model: nn.Module, grid: Grid) -> list[str]:
    """Copies this rank's shards of the weights into `model`; the parameters without any."""
    specs = {n: s for n, s in parameter_specs(model).items() if n.startswith(PRETRAINED)}
    reader = None
    if start.checkpoint is not None:
        check_checkpoint(pretrained(start.checkpoint.manifest), specs, start.tokenizer_sha256)
        reader = TensorReader(start.checkpoint)
    missing = []
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value, source = None, _TRANSFORM.sub("head.", name)
            if source in specs:
                value = _shard(start, reader, source, specs[source], grid)
            if value is None:
                missing.append(name)
            else:
                parameter.copy_(value)
    return missing


def _shard(
    start: Start, reader: TensorReader | None, name: str, spec: ParameterSpec, grid: Grid
) -> Tensor | None:
    if reader is not None:
        return reader.local("weight", name, spec, *grid.tp_shard)
    assert start.tensors is not None
    if name not in start.tensors:
        return None
    return shard_tensor(spec, start.tensors[name].float(), *grid.tp_shard)


def pretrained(manifest: CheckpointManifest) -> CheckpointManifest:
    """Without the pooler and the task heads of a fine-tuned model."""
    kept = {n: p for n, p in manifest.parameters.items() if n.startswith(PRETRAINED)}
    return manifest.model_copy(update={"parameters": kept})
