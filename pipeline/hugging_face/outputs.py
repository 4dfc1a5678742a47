"""What a trained model and its export compute from the same rows, to be compared.

B rows, S tokens in a row, V vocabulary, H hidden.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.dataset.manifest import SpecialTokens
from model.compute import ComputeConfig
from model.config import ModelConfig
from model.heads import MaskedLanguageModel
from pipeline.hugging_face.compared_rows import compared_rows, piece_ranges
from pipeline.hugging_face.comparison import Outputs
from pipeline.hugging_face.sentence_encoder import written_embeddings
from pipeline.hugging_face.text_rows import text_rows

NUM_COMPARED_ROWS = 8
"""Of each kind: rows of one document, and rows of several."""
NUM_PIECES = 3
TOKENS_AT_ONCE = 4096
"""Tokens whose logits are compared together, but at least one row."""
SDPA_ROW_TOKENS = 2048
"""For longer rows the explicit backend would hold all attention scores in memory."""
ONNX_SIZES = ((1, 1), (1, 7), (3, 16), (2, 33), (1, 128))
"""Rows and tokens of the batches on which ONNX is compared; longer ones than the model's rows are
cut."""


def compute_of_comparison(model: ModelConfig) -> ComputeConfig:
    """How the trained model computes what is compared: in little memory where rows are long."""
    is_long = model.max_row_tokens > SDPA_ROW_TOKENS
    return ComputeConfig(attention_backend="sdpa" if is_long else "auto")


def masked_lm_outputs(
    ours: MaskedLanguageModel, theirs: Any, tokenizer: Path, special: SpecialTokens
) -> Outputs:
    """The logits of both on rows of one document, then on rows of several.

    The rows are of texts, encoded by `tokenizer`, and of any tokens.
    """
    model = ours.config
    for num_pieces in (1, NUM_PIECES):
        any_tokens = compared_rows(model, ours.vocab_size, NUM_COMPARED_ROWS, num_pieces)
        for rows in (any_tokens, text_rows(tokenizer, special, model, num_pieces)):
            for batch in _batches(rows, model):
                yield from _logits(ours, theirs, batch)


def onnx_outputs(ours: MaskedLanguageModel, onnx: Any) -> Outputs:
    """The logits of both on batches of several sizes, some of whose rows are padded."""
    for batch in onnx_batches(ours.config, ours.vocab_size):
        yield _by_row(ours, onnx, batch)


def onnx_batches(model: ModelConfig, vocab_size: int, multiple: int = 1) -> Iterator[Tensor]:
    """Batches [B x `multiple`, S] of several sizes, some of whose rows are padded."""
    for num_rows, length in ONNX_SIZES:
        num_tokens = min(length, model.max_row_tokens)
        short = model.model_copy(update={"max_row_tokens": num_tokens})
        yield torch.from_numpy(compared_rows(short, vocab_size, num_rows * multiple))


def embedding_outputs(
    ours: MaskedLanguageModel,
    theirs: Any,
    folder: Path,
    pool: Callable[[Tensor, Tensor], Tensor],
) -> Outputs:
    """The vectors [B, H] of rows of one document: `pool(hidden [B, S, H], tokens)` of ours, and by
    the sentence-transformers files in `folder` of `theirs`."""
    model = ours.config
    rows = compared_rows(model, ours.vocab_size, NUM_COMPARED_ROWS)
    for batch in _batches(rows, model):
        tokens = batch.to(next(ours.parameters()).device)
        is_text = (tokens != model.pad_token_id).long()
        hidden = theirs.base_model(input_ids=tokens, attention_mask=is_text).last_hidden_state
        expected = written_embeddings(folder, hidden.cpu(), is_text.cpu())
        yield pool(ours.hidden_states(tokens), tokens).cpu(), expected


def _batches(rows: NDArray[np.int64], model: ModelConfig) -> Iterator[Tensor]:
    """`rows` [N, S] in batches that fit into memory, each as wide as its longest row."""
    lengths = (rows != model.pad_token_id).sum(axis=1)
    first = 0
    while first < len(rows):
        count = max(1, TOKENS_AT_ONCE // max(int(lengths[first:].max()), 1))
        width = max(int(lengths[first : first + count].max()), 1)
        yield torch.from_numpy(rows[first : first + count, :width])
        first += count


def _logits(ours: MaskedLanguageModel, theirs: Any, rows: Tensor) -> Outputs:
    is_inside = ours.config.packed_rows.type == "inside"
    if is_inside and any(len(piece_ranges(row.numpy(), ours.config)) > 1 for row in rows):
        yield from _by_piece(ours, theirs, rows)
    else:
        yield _by_row(ours, theirs, rows)


def _by_row(ours: MaskedLanguageModel, theirs: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The logits at the text of `rows` [B, S], which both models read whole."""
    tokens = rows.to(next(ours.parameters()).device)
    is_text = tokens != ours.config.pad_token_id  # the logits of padding are never read
    inputs: dict[str, Tensor] = {}
    if ours.config.type_vocab_size > 1:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        inputs["token_type_ids"] = (places // 2 % ours.config.type_vocab_size).expand_as(tokens)
    result = theirs(input_ids=tokens, attention_mask=is_text.long(), **inputs)
    logits = ours.logits(tokens, inputs.get("token_type_ids"))  # [B, S, V]
    return logits[is_text], result.logits.to(logits.device)[is_text]


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
