"""Which texts are kept: rules of quality, each with a name under which its drops are counted.

The rules and their default limits are those of Gopher (Rae et al. 2021, "Scaling Language Models",
table A1 and section A.1.1), on the words of `data_prep.text_batch`.
"""

import numpy as np
import numpy.typing as npt
from pydantic import Field

from configs.load import Config
from data_prep.text_batch import I64, TextBatch

KEPT = ""
Reasons = npt.NDArray[np.str_]


class FiltersConfig(Config):
    """Limits outside which a text is dropped."""

    min_words: int = Field(default=50, ge=0)
    """Fewest words of a text."""
    max_words: int = Field(default=100_000, ge=1)
    """Most words of a text. Note that a whole book may have more."""
    min_mean_word_characters: float = 3.0
    """Least mean length of a text's words, bytes."""
    max_mean_word_characters: float = 10.0
    """Greatest mean length of a text's words, bytes."""
    min_alphabetic_share: float = Field(default=0.8, ge=0, le=1)
    """Least share of the words that begin with a letter."""
    max_symbol_share: float = Field(default=0.1, ge=0)
    """Greatest number of hash signs, and of ellipses, a word."""


def drop_reasons(batch: TextBatch, config: FiltersConfig) -> Reasons:
    """The name of the first rule that each text breaks, or KEPT: [D]."""
    reasons = np.full(len(batch.texts), KEPT, dtype="<U32")
    for name, broken in _rules(batch, config):
        reasons[(reasons == KEPT) & broken] = name
    return reasons


def _rules(batch: TextBatch, config: FiltersConfig) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    starts, ends = batch.word_bounds
    words = batch.word_counts  # [D]
    per_word = 1 / np.maximum(words, 1)
    mean_length = batch.sum_over_words(ends - starts) * per_word
    alphabetic = batch.sum_over_words(batch.word_begins_with_letter) * per_word
    hash_signs = batch.count_at(np.flatnonzero(batch.data == ord("#")))
    symbols = np.maximum(hash_signs, batch.count_at(_ellipses(batch))) * per_word
    return [
        ("empty", words == 0),
        ("too few words", words < config.min_words),
        ("too many words", words > config.max_words),
        ("words too short", mean_length < config.min_mean_word_characters),
        ("words too long", mean_length > config.max_mean_word_characters),
        ("too few letters", alphabetic < config.min_alphabetic_share),
        ("too many symbols", symbols > config.max_symbol_share),
    ]


def _ellipses(batch: TextBatch) -> I64:
    """Where an ellipsis begins: three dots, or the character of its own."""
    data = batch.data
    dots = np.flatnonzero(data == ord("."))
    triple = dots[:-2][dots[2:] - dots[:-2] == 2]
    first = triple[np.diff(triple, prepend=-9) > 1]  # of a longer run, only its begin
    lead = np.flatnonzero(data == 0xE2)
    character = lead[(data[lead + 1] == 0x80) & (data[lead + 2] == 0xA6)]
    return np.sort(np.concatenate([first, character]))
