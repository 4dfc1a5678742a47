"""Averages the weights of checkpoints tensor by tensor into the folder of a new run."""

import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from configs.load import UserError
from data_prep.dataset.atomic import fsync_folder, open_atomic, write_atomic
from pipeline.averaging.compatibility import check_same_model
from pipeline.averaging.sources import Source
from pipeline.checkpoint.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    TOKENIZER_NAME,
    Checkpoint,
    CheckpointManifest,
    checkpoint_folder,
    manifest_json,
    part_name,
    tensor_key,
    verify,
)
from pipeline.checkpoint.reader import TensorReader
from pipeline.checkpoint.records import AveragedCheckpoint, FileRecord
from pipeline.checkpoint.tensor_writer import TensorWriter
from pipeline.optim.optimizer import WEIGHT_KEY
from pipeline.run.versions import versions

CONFIG_NAME = "config.yaml"
VALUES_AT_ONCE = 1 << 20
"""A larger fp64 copy of a tensor would not fit into the caches."""

logger = logging.getLogger(__name__)


def average(sources: Sequence[Source], output: Path) -> Checkpoint:
    """Writes the average of `sources` as the only checkpoint of the run folder `output`.

    It has the config and the step of the source with the largest step, of equal ones the last; and
    weights only, no optimizer state. At any time one tensor of the model is in memory, as its sum
    and as that of one source. Raises UserError for checkpoints of different models, for weights
    that are not finite and for a folder that exists.
    """
    if output.exists():
        raise UserError(f"{output}: exists already; choose a new folder, or delete it")
    checkpoints = [source.checkpoint for source in sources]
    check_same_model(checkpoints)
    base, manifest = _base_of(checkpoints), _manifest_of(sources)
    unfinished = output.with_name(f".{output.name}-unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    folder = checkpoint_folder(unfinished / "checkpoints", manifest.step)
    folder.mkdir(parents=True)
    try:
        tensors = _write_tensors(folder / part_name(0, 1), sources, manifest)
        tokenizer = _copy_tokenizer(base, folder)
        manifest = manifest.model_copy(update={"files": (tensors,), "tokenizer": tokenizer})
        write_atomic(folder / MANIFEST_NAME, manifest_json(manifest))
        _write_config(base.manifest, unfinished / CONFIG_NAME, output)
        unfinished.rename(output)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    fsync_folder(output.parent)
    final = checkpoint_folder(output / "checkpoints", manifest.step)
    return Checkpoint(final, verify(final))


def averaged(
    sources: Sequence[Source], readers: Sequence[TensorReader], name: str
) -> NDArray[np.float32]:
    """The average of a parameter: summed in fp64, divided once, rounded once to fp32.

    So equal weights average to the same bits, and no bit depends on the machine.
    """
    shape = sources[0].checkpoint.manifest.parameters[name].shape
    total = np.full(math.prod(shape), -0.0)  # 0.0 would lose the sign of zeros
    for source, reader in zip(sources, readers, strict=True):
        values = reader.full(WEIGHT_KEY, name).numpy().ravel()
        for start in range(0, len(values), VALUES_AT_ONCE):
            part = values[start : start + VALUES_AT_ONCE].astype(np.float64)
            if not np.isfinite(part).all():
                path = source.checkpoint.path
                raise UserError(f"{path}: {name} has weights that are not finite: leave it out")
            part *= source.weight
            total[start : start + VALUES_AT_ONCE] += part
    total /= _total_weight(sources)
    return total.astype(np.float32).reshape(shape)


def _total_weight(sources: Sequence[Source]) -> float:
    total = 0.0
    for source in sources:
        total += source.weight
    return total


def _write_tensors(
    path: Path, sources: Sequence[Source], manifest: CheckpointManifest
) -> FileRecord:
    readers = [TensorReader(source.checkpoint) for source in sources]
    names = sorted(manifest.parameters)
    shapes = {tensor_key(WEIGHT_KEY, name): manifest.parameters[name].shape for name in names}
    with open_atomic(path) as file:
        writer = TensorWriter(file, shapes)
        for name in names:
            writer.write(tensor_key(WEIGHT_KEY, name), averaged(sources, readers, name))
    return writer.record(path)


def _base_of(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The checkpoint whose config and step the average has."""
    return max(reversed(checkpoints), key=lambda checkpoint: checkpoint.manifest.step)


def _manifest_of(sources: Sequence[Source]) -> CheckpointManifest:
    """The manifest of the average, without its files."""
    base = _base_of([source.checkpoint for source in sources]).manifest
    total = _total_weight(sources)
    lineage = tuple(
        AveragedCheckpoint(
            path=str(source.checkpoint.path.resolve()),
            step=source.checkpoint.manifest.step,
            weight=source.weight / total,
            sha256=source.checkpoint.manifest.sha256 or "",
            tracking_run_id=source.checkpoint.manifest.tracking_run_id,
        )
        for source in sources
    )
    changes = {
        **{"optimizer_step": 0, "recent_losses": (), "loss_scale": None, "state_keys": ("weight",)},
        **{"tp_size": 1, "dp_size": 1, "zero_stage": 1, "tracking_run_id": None},
        **{"heldout_loss": None, "dev_error": None, "validation": None, "versions": versions()},
        **{"format_version": FORMAT_VERSION, "fragments": None},
        **{"files": (), "tokenizer": None, "sha256": None, "averaged": lineage},
    }
    return base.model_copy(update=changes)


def _copy_tokenizer(base: Checkpoint, folder: Path) -> FileRecord | None:
    if base.manifest.tokenizer is None:
        logger.info("%s: carries no tokenizer (version 0.1.0), nor does the average", base.path)
        return None
    content = (base.path / base.manifest.tokenizer.path).read_bytes()
    write_atomic(folder / TOKENIZER_NAME, content)
    return base.manifest.tokenizer.model_copy(update={"path": TOKENIZER_NAME})


def _write_config(manifest: CheckpointManifest, path: Path, output: Path) -> None:
    """A config file with which commands find the average."""
    # Fine-tuned checkpoints of older versions keep the whole model's config under "network".
    tree = {key: part for key, part in manifest.config.items() if key != "network"}
    text = yaml.safe_dump({**tree, "output": str(output)}, sort_keys=False, allow_unicode=True)
    write_atomic(path, "# The config of the averaged run; for evaluation and export.\n" + text)
