"""Puts the weights of taken task heads into a model (`pipeline.finetuning.start_heads`)."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from model.multi_task import MultiTaskModel
from model.parallel.grid import Grid
from model.parameters import shard_tensor
from pipeline.checkpoint.manifest import Checkpoint
from pipeline.checkpoint.reader import TensorReader
from pipeline.finetuning.start_heads import TakenHead


def load_heads(
    taken: Mapping[str, TakenHead], checkpoint: Checkpoint, model: MultiTaskModel, grid: Grid
) -> list[str]:
    """Copies the heads, and the pooler if one of them reads it; the names of what was copied.

    A pooler or a layer before the output of another shape than that of the checkpoint keeps its
    initial values.
    """
    reader = TensorReader(checkpoint)
    there = checkpoint.manifest.parameters
    copied = []
    with torch.no_grad():
        for name, source, head in _sources(taken, model):
            parameter = model.get_parameter(name)
            if source not in there:
                continue
            full = reader.full("weight", source)
            if head is not None and head.rows is not None:
                full = _rows_of(full, head.rows, parameter)
            if tuple(full.shape) != parameter.spec.full_shape:  # type: ignore[attr-defined]
                continue
            spec = parameter.spec  # type: ignore[attr-defined]
            parameter.copy_(shard_tensor(spec, full, *grid.tp_shard))
            copied.append(name)
    return copied


def _sources(
    taken: Mapping[str, TakenHead], model: MultiTaskModel
) -> Iterator[tuple[str, str, TakenHead | None]]:
    """(name of a parameter, its name in the checkpoint, the head whose labels its rows are)."""
    reads_pooled = any(model.task_heads[name].reads_pooled for name in taken)
    for name, _ in model.named_parameters():
        part, _, rest = name.partition(".")
        task, _, tail = rest.partition(".")
        if part == "pooler" and reads_pooled:
            yield name, name, None
        elif part in ("task_heads", "transforms") and task in taken:
            head = taken[task]
            source = f"{part}.{head.task}.{tail}"
            yield name, source, head if part == "task_heads" else None


def _rows_of(full: Tensor, rows: tuple[int | None, ...], initial: Tensor) -> Tensor:
    """`full` with a row for each of `rows`; a row that is None keeps its initial value.

    Heads are whole on every rank.
    """
    result = initial.detach().clone().float().cpu()
    for here, row in enumerate(rows):
        if row is not None:
            result[here] = full[row]
    return result
