"""Rows of texts, by a run's tokenizer, on which an export is compared; they need no data set."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.dataset.manifest import SpecialTokens
from data_prep.dataset.tokenizer import text_tokenizer
from model.config import ModelConfig

TEXTS = (
    "The cat sat on the mat, and the dog slept in the sun until the evening.",
    "I.",
    "def add(first, second):\n    return first + second  # 1,234.5",
    "Ça va? Übung macht den Meister; el niño comió una piña.",
    "Москва не сразу строилась. हिन्दी में लिखा हुआ एक वाक्य।",
    "日本語の文章です。 面包很好吃。 ไทย",
    "CC(=O)OC1=CC=CC=C1C(=O)O>>OC1=CC=CC=C1",
    "EVQLVESGGGLVQPGGSLRLSCAASGFTFSSYA",
    "7",
    "internationalisation of unbelievably long words " * 12,
)
"""Of several languages, of code, molecules and proteins, since vocabularies are of all kinds; some
are of one token."""
MASK_EVERY = 7
"""One token in so many is masked."""


def text_rows(
    tokenizer: Path, special: SpecialTokens, model: ModelConfig, num_pieces: int = 1
) -> NDArray[np.int64]:
    """Padded rows of `num_pieces` texts each, as many as fit: int64 [rows, tokens of the longest].

    Each text stands between the begin and the end token and is cut to what is left of its row, but
    for texts without a token. No row is longer than `model.max_row_tokens`.
    """
    pieces = _pieces(tokenizer, special)
    rows: list[list[int]] = []
    for first in range(0, len(pieces), num_pieces):
        row = [token for piece in pieces[first : first + num_pieces] for token in piece]
        rows.append(row[: model.max_row_tokens])
    width = max((len(row) for row in rows), default=0)
    result = np.full((len(rows), width), model.pad_token_id, dtype=np.int64)
    for place, row in enumerate(rows):
        result[place, : len(row)] = row
    return result


def _pieces(tokenizer: Path, special: SpecialTokens) -> list[list[int]]:
    encoder = text_tokenizer(tokenizer, special)
    pieces = []
    for text in TEXTS:
        ids = encoder.encode(text, add_special_tokens=False).ids
        for place in range(MASK_EVERY // 2, len(ids), MASK_EVERY):
            ids[place] = special.mask
        if ids:
            pieces.append([special.bos, *ids, special.eos])
    return pieces
