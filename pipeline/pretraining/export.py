"""Exports a pretrained model: a Hugging Face folder with its masked-language-model head."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.dataset.manifest import Manifest, Split
from model.heads import build_masked_lm
from model.hugging_face.families import family_of_model
from model.parallel.grid import single_rank_grid
from model.parameters import parameter_specs
from pipeline.checkpoint.manifest import Checkpoint
from pipeline.checkpoint.reader import TensorReader, check_checkpoint, load_weights
from pipeline.data.shard_cache import open_data_set, row_reader
from pipeline.hugging_face.folder import ExportSource, load_exported
from pipeline.hugging_face.publish import publish, read_state
from pipeline.run.config import TrainConfig

PARITY_ROWS_PER_SOURCE = 8
ROWS_AT_ONCE = 4


def export(config: TrainConfig, checkpoint: Checkpoint, folder: Path) -> float:
    """Writes `folder`; the largest absolute difference of a logit to the trained model.

    Raises ConfigError for a model that Hugging Face has no architecture for, and UserError, leaving
    an older export as it was, if the difference is more than rounding.
    """
    manifest = open_data_set(config.data)
    family = family_of_model(config.model)
    return publish(
        folder,
        tensors=family.to_hf(read_state(checkpoint), config.model),
        config=family.hf_config(config.model, manifest.vocab_size),
        tokenizer=config.data.path / manifest.tokenizer.path,
        max_row_tokens=config.model.max_row_tokens,
        source=ExportSource.of(checkpoint),
        quantity="logit",
        compare=lambda unfinished: _largest_difference(config, checkpoint, manifest, unfinished),
    )


def _largest_difference(
    config: TrainConfig, checkpoint: Checkpoint, manifest: Manifest, folder: Path
) -> float:
    tokens = torch.from_numpy(parity_rows(config, manifest))
    starts = range(0, len(tokens), ROWS_AT_ONCE)
    with single_rank_grid() as grid, torch.no_grad():
        ours = build_masked_lm(
            config.model.for_loaded_weights(), manifest.vocab_size, grid, config.seed
        )
        check_checkpoint(checkpoint.manifest, parameter_specs(ours), manifest.tokenizer.sha256)
        load_weights(ours, TensorReader(checkpoint), grid)
        _, theirs = load_exported(folder)
        theirs.to(grid.device)
        ours.eval()
        largest = 0.0
        for start in starts:
            rows = tokens[start : start + ROWS_AT_ONCE].to(grid.device)
            is_text = rows != config.model.pad_token_id
            attention_mask = None if bool(is_text.all()) else is_text.long()
            their_logits = theirs(input_ids=rows, attention_mask=attention_mask).logits
            difference = (ours.logits(rows) - their_logits)[is_text]  # padding is never read
            largest = max(largest, float(difference.abs().max()))
        return largest


def parity_rows(config: TrainConfig, manifest: Manifest) -> NDArray[np.int64]:
    """Held-out rows with some of their tokens masked: int64 [n, row_tokens].

    Where attention stays inside of a document (`packed_rows: inside`), only the first document of
    each row is kept: Hugging Face's models know no more than one document in a row.
    """
    has_heldout = any(source.rows for source in manifest.splits["heldout"].values())
    split: Split = "heldout" if has_heldout else "train"
    reader = row_reader(config.data, manifest, split)
    rows = [
        reader.read(name, np.arange(min(PARITY_ROWS_PER_SOURCE, source.rows)))
        for name, source in manifest.splits[split].items()
    ]
    tokens = np.concatenate(rows).astype(np.int64)
    if config.model.packed_rows.type == "inside":
        document = np.cumsum(tokens == config.model.begin_token_id, axis=1)
        tokens[document > 1] = config.model.pad_token_id
    masked = tokens[:, 5::7]
    masked[masked != config.model.pad_token_id] = manifest.special_tokens.mask
    return tokens
