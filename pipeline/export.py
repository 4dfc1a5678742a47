"""A Hugging Face folder from a run's newest checkpoint: ``python -m pipeline.export CONFIG.yaml``.

The folder appears under its name only after its logits were compared with those of our own model on
held-out rows. The one door to transformers.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from configs import command
from configs.load import UserError, load
from data_prep.dataset.atomic import fsync_folder, write_atomic
from data_prep.dataset.manifest import Manifest, Split, read_manifest
from model.heads import build_masked_lm
from model.hugging_face.families import family_of_model
from model.parallel.grid import single_rank_grid
from pipeline.checkpoint.manifest import Checkpoint, find_checkpoint
from pipeline.checkpoint.reader import TensorReader, check_checkpoint, load_weights
from pipeline.data.shard_cache import row_reader
from pipeline.hugging_face.folder import (
    PARITY_NAME,
    PARITY_TOLERANCE,
    checkpoint_source,
    load_exported,
    write_tokenizer,
)
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import checkpoints_folder

PARITY_ROWS_PER_SOURCE = 8


def main() -> None:
    """``python -m pipeline.export CONFIG.yaml key.sub=value ...``."""
    arguments = command.parser("Export a run's newest checkpoint to Hugging Face.").parse_args()
    config = load(arguments.config, TrainConfig, arguments.overrides)
    checkpoint, problems = find_checkpoint(checkpoints_folder(config))
    for problem in problems:
        print(f"warning: {problem}; passed over", flush=True)
    if checkpoint is None:
        raise UserError(f"{checkpoints_folder(config)}: no whole checkpoint; train first")
    folder = config.output / "hf"
    source = checkpoint_source(checkpoint)
    if _exported(folder) == source:
        print(f"{folder}: step {checkpoint.manifest.step} is exported already")
        return
    difference = export(config, checkpoint, folder)
    print(
        f"{folder}: step {checkpoint.manifest.step}, largest difference of logits to the trained "
        f"model {difference:.1e} (fp32)"
    )


def export(config: TrainConfig, checkpoint: Checkpoint, folder: Path) -> float:
    """Writes `folder`; the largest absolute difference of a logit between our model and theirs.

    Raises UserError, leaving an older export as it was, if the difference is more than rounding.
    """
    manifest = read_manifest(config.data.path)
    unfinished = folder.with_name(f".{folder.name}-unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    _write_weights(config, checkpoint, manifest, unfinished)
    write_tokenizer(
        config.data.path / manifest.tokenizer.path, config.model.max_row_tokens, unfinished
    )
    difference = _compare(config, checkpoint, manifest, unfinished)
    if not difference <= PARITY_TOLERANCE:
        raise UserError(
            f"{unfinished}: not exported: its logits differ by {difference:.1e} from the trained "
            f"model's, more than {PARITY_TOLERANCE:.0e}"
        )
    record = {**checkpoint_source(checkpoint), "largest_logit_difference": difference}
    write_atomic(unfinished / PARITY_NAME, json.dumps(record, indent=1) + "\n")
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.rename(folder)
    fsync_folder(folder.parent)
    return difference


def _write_weights(
    config: TrainConfig, checkpoint: Checkpoint, manifest: Manifest, folder: Path
) -> None:
    reader = TensorReader(checkpoint)
    state = {name: reader.full("weight", name) for name in checkpoint.manifest.parameters}
    family = family_of_model(config.model)
    tensors = {name: t.contiguous() for name, t in family.to_hf(state, config.model).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tree = {**family.hf_config(config.model, manifest.vocab_size), "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(tree, indent=2) + "\n")


def _compare(
    config: TrainConfig, checkpoint: Checkpoint, manifest: Manifest, folder: Path
) -> float:
    tokens = torch.from_numpy(_parity_rows(config, manifest))
    with single_rank_grid() as grid, torch.no_grad():
        ours = build_masked_lm(
            config.model.for_loaded_weights(), manifest.vocab_size, grid, config.seed
        )
        check_checkpoint(
            checkpoint.manifest,
            {name: p.spec for name, p in ours.named_parameters()},  # type: ignore[attr-defined]
            manifest.tokenizer.sha256,
        )
        load_weights(ours, TensorReader(checkpoint), grid)
        _, theirs = load_exported(folder)
        ours.eval()
        largest = 0.0
        for rows in tokens.split(4):
            their_logits = theirs.to(grid.device)(input_ids=rows.to(grid.device)).logits
            difference = ours.logits(rows.to(grid.device)) - their_logits
            largest = max(largest, float(difference.abs().max()))
        return largest


def _parity_rows(config: TrainConfig, manifest: Manifest) -> np.ndarray:
    """Held-out rows, some of their tokens masked: int64 [n, row_tokens]."""
    has_heldout = any(source.rows for source in manifest.splits["heldout"].values())
    split: Split = "heldout" if has_heldout else "train"
    reader = row_reader(config.data, manifest, split)
    rows = [
        reader.read(name, np.arange(min(PARITY_ROWS_PER_SOURCE, source.rows)))
        for name, source in manifest.splits[split].items()
    ]
    tokens = np.concatenate(rows).astype(np.int64)
    tokens[:, 5::7] = manifest.special_tokens.mask
    return tokens


def _exported(folder: Path) -> dict[str, Any] | None:
    """What the export in `folder` was made from, None if there is none."""
    path = folder / PARITY_NAME
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_bytes())
    record.pop("largest_logit_difference", None)
    return record


if __name__ == "__main__":
    command.run(main)
