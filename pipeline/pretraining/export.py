"""Exports a pretrained model: a Hugging Face folder with its masked-language-model head.

B rows, S tokens in a row, V vocabulary.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.config import ModelConfig
from model.heads import MaskedLanguageModel, build_masked_lm
from model.hugging_face.families import family_of_model
from model.parallel.grid import single_rank_grid
from model.parameters import parameter_specs
from pipeline.checkpoint.reader import TensorReader, check_checkpoint, load_weights
from pipeline.hugging_face.compared_rows import compared_rows, piece_ranges
from pipeline.hugging_face.comparison import Outputs, largest_difference
from pipeline.hugging_face.folder import ExportedTokenizer, ExportSource, load_exported
from pipeline.hugging_face.publish import publish, read_state
from pipeline.run.config import TrainConfig
from pipeline.run.trained_model import TrainedModel

NUM_COMPARED_ROWS = 8
"""Of each kind: rows of one document, and rows of several."""
NUM_PIECES = 3
ROWS_AT_ONCE = 4


def export(trained: TrainedModel[TrainConfig], folder: Path) -> float:
    """Writes `folder`; the largest absolute difference of a logit to the trained model.

    Raises ConfigError for a model that Hugging Face has no architecture for, and UserError, leaving
    an older export as it was, if the difference is more than rounding.
    """
    family = family_of_model(trained.model)
    return publish(
        folder,
        tensors=family.to_hf(read_state(trained.checkpoint), trained.model),
        config=family.hf_config(trained.model, trained.vocab_size),
        tokenizer=ExportedTokenizer.of(trained.tokenizer, trained.special, trained.model),
        source=ExportSource.of(trained.checkpoint),
        quantity="logit",
        compare=partial(_largest_difference, trained),
    )


def _largest_difference(trained: TrainedModel[TrainConfig], folder: Path) -> float:
    checkpoint, model = trained.checkpoint, trained.model
    with single_rank_grid() as grid, torch.no_grad():
        ours = build_masked_lm(model, trained.vocab_size, grid, trained.config.seed).eval()
        check_checkpoint(
            checkpoint.manifest, parameter_specs(ours), checkpoint.manifest.tokenizer_sha256
        )
        load_weights(ours, TensorReader(checkpoint), grid)
        _, theirs = load_exported(folder)
        return largest_difference(
            ours,
            theirs.to(grid.device),
            outputs=lambda: _outputs(ours, theirs),
            to_hf=lambda state: family_of_model(model).to_hf(state, model),
            quantity="logit",
        )


def _outputs(ours: MaskedLanguageModel, theirs: Any) -> Outputs:
    """The logits of both on rows of one document, then on rows of several."""
    packed = _by_row if ours.config.packed_rows.type == "across" else _by_piece
    for num_pieces, outputs in ((1, _by_row), (NUM_PIECES, packed)):
        rows = compared_rows(ours.config, ours.vocab_size, NUM_COMPARED_ROWS, num_pieces)
        for start in range(0, NUM_COMPARED_ROWS, ROWS_AT_ONCE):
            yield from outputs(ours, theirs, torch.from_numpy(rows[start : start + ROWS_AT_ONCE]))


def _by_row(ours: MaskedLanguageModel, theirs: Any, rows: Tensor) -> Outputs:
    """The logits at the text of `rows` [B, S], which both models read whole."""
    tokens = rows.to(next(ours.parameters()).device)
    is_text = tokens != ours.config.pad_token_id  # the logits of padding are never read
    expected = theirs(input_ids=tokens, attention_mask=is_text.long()).logits  # [B, S, V]
    yield ours.logits(tokens)[is_text], expected[is_text]


def _by_piece(ours: MaskedLanguageModel, theirs: Any, rows: Tensor) -> Outputs:
    """The logits at the text of `rows` [B, S], whose documents do not see each other.

    Hugging Face's models know no more than one document in a row: they read each by itself.
    """
    device = next(ours.parameters()).device
    logits = ours.logits(rows.to(device))  # [B, S, V]
    for number, row in enumerate(rows):
        for start, end in piece_ranges(row.numpy(), ours.config):
            positions = _positions(ours.config, start, end)
            expected = theirs(
                input_ids=row[None, start:end].to(device),
                position_ids=None if positions is None else positions.to(device),
            )
            yield logits[number, start:end], expected.logits[0]


def _positions(model: ModelConfig, start: int, end: int) -> Tensor | None:
    """[1, end - start] rows of the position matrix for a piece; None: those that transformers
    takes, which count from the start of the piece."""
    assert model.packed_rows.type == "inside"
    if model.positions.type != "learned":  # rotary ones depend on distances only
        return None
    if start == 0 or model.packed_rows.restart_positions:
        return None
    return torch.arange(start, end)[None] + model.positions.offset
