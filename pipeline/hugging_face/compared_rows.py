"""The rows on which an exported model is compared with the trained one; they need no data set."""

import numpy as np
from numpy.typing import NDArray

from model.config import ModelConfig

SEED = 0
"""The rows are a function of this, of the model's sizes and of the row's number only."""
MASK_RATE = 0.15
LONG_ROW_TOKENS = 1024
"""Only the first row is longer: attention costs the square of the length."""


def compared_rows(
    model: ModelConfig, vocab_size: int, num_rows: int, num_pieces: int = 1
) -> NDArray[np.int64]:
    """Rows of random tokens, some of them `<mask>`: int64 [num_rows, max_row_tokens].

    Each holds `num_pieces` documents; every other row is shorter than the longest and padded, and
    so are all but the first of models with very long rows.
    """
    rows = np.full((num_rows, model.max_row_tokens), model.pad_token_id, dtype=np.int64)
    for number in range(num_rows):
        length = model.max_row_tokens
        if number:
            length = min(length, LONG_ROW_TOKENS)
        if number % 2:
            length = max(1, length * number // (num_rows + 1))
        row = _document(model, vocab_size, length, number)
        if model.begin_token_id != model.pad_token_id:
            row[[piece * length // num_pieces for piece in range(num_pieces)]] = (
                model.begin_token_id
            )
        rows[number, :length] = row
    return rows


def piece_ranges(row: NDArray[np.int64], model: ModelConfig) -> list[tuple[int, int]]:
    """[start, end) of every document of a row; padding belongs to none."""
    length = int((row != model.pad_token_id).sum())
    starts = np.flatnonzero(row[:length] == model.begin_token_id).tolist()
    if not starts or starts[0] > 0:
        starts = [0, *starts]
    return list(zip(starts, [*starts[1:], length], strict=True))


def _document(model: ModelConfig, vocab_size: int, length: int, number: int) -> NDArray[np.int64]:
    """Any tokens except padding and the begin token: int64 [length]."""
    generator = np.random.default_rng((SEED, number))
    tokens = np.setdiff1d(np.arange(vocab_size), [model.pad_token_id, model.begin_token_id])
    row = generator.choice(tokens, size=length)
    row[generator.random(length) < MASK_RATE] = vocab_size - 1
    return row
