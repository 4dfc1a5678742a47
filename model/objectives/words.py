"""Where words start, for objectives that choose whole words.

n rows, R tokens in a row, V vocabulary.
"""

import numpy as np
from numpy.typing import NDArray

from configs.load import ConfigError

_MARKS = ("Ġ", "Ċ", "ĉ", "č", "▁")
"""Space, line feed, tab and carriage return in byte-level BPE; SentencePiece's space."""


def number_words(
    rows: NDArray[np.unsignedinteger],
    maskable: NDArray[np.bool_],
    word_starts: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """[n, R] the number within its row of each token's word; special tokens separate words."""
    starts = word_starts[rows] | ~maskable
    starts[:, 1:] |= ~maskable[:, :-1]
    starts[:, 0] = True
    numbers: NDArray[np.int64] = starts.cumsum(axis=1) - 1
    return numbers


def word_starts_of(vocabulary: list[str], model_type: str = "") -> NDArray[np.bool_]:
    """[V] which tokens start a word, by the marks that the tokenizer's model puts on its tokens.

    In byte-level BPE a word starts with a space (written "Ġ") or another white-space character, in
    SentencePiece's models with "▁"; in WordPiece every token without the mark "##" starts one, in a
    WordLevel model every token. `model_type` is the name of the model in tokenizer.json; without it
    WordPiece is known by its mark. Raises ConfigError for a vocabulary without marks.
    """
    if model_type == "WordLevel":
        return np.ones(len(vocabulary), dtype=bool)
    has_mark = any(token.startswith("##") and len(token) > 2 for token in vocabulary)
    if model_type == "WordPiece" or (has_mark and not model_type):
        return np.array([not token.startswith("##") for token in vocabulary])
    starts = np.array([token.startswith(_MARKS) for token in vocabulary])
    if not starts.any():
        raise ConfigError(
            "the tokens of this vocabulary do not show where words start (by Ġ, ▁ or ##): choose "
            "an objective that does not read words, objective.type mlm for example"
        )
    return starts
