"""Which documents are kept: the filters, in the order in which they are applied.

A filter is a function that measures all texts of a batch (words.py, lines.py, repetition.py,
language.py). To add one, write the function in an obvious file, add its limit to `FiltersConfig`,
and add a line to `drop_reasons`, with the reason under which its drops are counted.

The rules and their default limits are those of Gopher (Rae et al. 2021, "Scaling Language Models",
section A.1.1 and table A1), on the words of `data_prep.text.batch`, and a language rule.
"""

from pydantic import Field

from configs.load import Config
from data_prep.filters.language import LanguageConfig, drop_other_languages
from data_prep.filters.languages import STOP_WORDS, StopWords
from data_prep.filters.lines import bullet_line_share, ellipsis_line_share
from data_prep.filters.repetition import (
    RepetitionConfig,
    drop_common_ngrams,
    drop_repeated_lines,
    drop_repeated_ngrams,
)
from data_prep.filters.verdicts import Reasons, Verdicts
from data_prep.filters.words import (
    letter_share,
    mean_word_bytes,
    stop_word_count,
    symbols_per_word,
)
from data_prep.text.batch import TextBatch


class FiltersConfig(Config):
    """Limits outside which a document is dropped."""

    min_words: int = Field(default=50, ge=0)
    """Fewest words of a text."""
    max_words: int = Field(default=100_000, ge=1)
    """Most words of a text. Note that a whole book may have more."""
    min_mean_word_bytes: float = 3.0
    """Least mean length of a text's words, bytes."""
    max_mean_word_bytes: float = 10.0
    """Greatest mean length of a text's words, bytes."""
    min_alphabetic_share: float = Field(default=0.8, ge=0, le=1)
    """Least share of the words that start with a letter."""
    max_symbol_share: float = Field(default=0.1, ge=0)
    """Greatest number of hash signs, and of ellipses, per word."""
    max_bullet_line_share: float = Field(default=0.9, ge=0, le=1)
    """Greatest share of the lines that start with a bullet."""
    max_ellipsis_line_share: float = Field(default=0.3, ge=0, le=1)
    """Greatest share of the lines that end with an ellipsis."""
    min_stop_words: int = Field(default=2, ge=0)
    """Fewest occurrences of `stop_words`; 0 turns the rule off."""
    stop_words: StopWords = STOP_WORDS["en"]
    """Words that any running text of the language has: a list, or the code of a language, such as
    en."""
    repetition: RepetitionConfig | None = RepetitionConfig()
    """Limits of self-repetition; null turns the rules off."""
    language: LanguageConfig | None = None
    """Languages to keep; null keeps all."""


def drop_reasons(batch: TextBatch, limits: FiltersConfig) -> Reasons:
    """The reason to drop each text, that of the first filter that drops it, or KEPT: [D]."""
    verdicts = Verdicts(len(batch.texts))
    drop = verdicts.drop
    drop("empty", batch.word_counts == 0)
    drop("too few words", batch.word_counts < limits.min_words)
    drop("too many words", batch.word_counts > limits.max_words)
    drop("words too short", mean_word_bytes(batch) < limits.min_mean_word_bytes)
    drop("words too long", mean_word_bytes(batch) > limits.max_mean_word_bytes)
    drop("too few letters", letter_share(batch) < limits.min_alphabetic_share)
    drop("too many symbols", symbols_per_word(batch) > limits.max_symbol_share)
    if limits.min_stop_words:
        num_stop_words = stop_word_count(batch, limits.stop_words)
        drop("too few stop words", num_stop_words < limits.min_stop_words)
    drop("mostly bullets", bullet_line_share(batch) > limits.max_bullet_line_share)
    drop("too many cut-off lines", ellipsis_line_share(batch) > limits.max_ellipsis_line_share)
    if limits.repetition is not None:
        drop_repeated_lines(batch, limits.repetition, verdicts)
        drop_common_ngrams(batch, limits.repetition, verdicts)
        drop_repeated_ngrams(batch, limits.repetition, verdicts)
    if limits.language is not None:
        drop_other_languages(batch, limits.language, verdicts)
    return verdicts.reasons
