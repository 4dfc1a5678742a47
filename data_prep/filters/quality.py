"""Which texts are kept: rules of quality, each with a name under which its drops are counted.

The rules and their default limits are those of Gopher (Rae et al. 2021, "Scaling Language Models",
section A.1.1 and table A1), on the words of `data_prep.text.batch`, and a language rule.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from pydantic import Field

from configs.load import Config
from data_prep.filters.language import LanguageConfig, other_language
from data_prep.filters.repetition import (
    most_common_ngram_share,
    repeated_ngram_share,
    repeated_units,
)
from data_prep.text.batch import I64, U64, TextBatch
from data_prep.text.normalise import normalise

KEPT = ""
Reasons = npt.NDArray[np.str_]
Flags = npt.NDArray[np.bool_]


class RepetitionConfig(Config):
    """Limits of self-repetition (Gopher, table A1): greatest shares."""

    max_repeated_line_share: float = 0.30
    """Of the lines that stand earlier in the text too."""
    max_repeated_line_byte_share: float = 0.20
    """Of the bytes in them."""
    max_repeated_paragraph_share: float = 0.30
    """Of the paragraphs that stand earlier in the text too."""
    max_repeated_paragraph_byte_share: float = 0.20
    """Of the bytes in them."""
    max_common_ngram_share: dict[int, float] = Field(
        default_factory=lambda: {2: 0.20, 3: 0.18, 4: 0.16}
    )
    """Of the word bytes in the most frequent word n-gram, by n."""
    max_repeated_ngram_share: dict[int, float] = Field(
        default_factory=lambda: {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
    )
    """Of the word bytes in n-grams that stand earlier in the text too, by n."""


class FiltersConfig(Config):
    """Limits outside which a text is dropped."""

    min_words: int = Field(default=50, ge=0)
    """Fewest words of a text."""
    max_words: int = Field(default=100_000, ge=1)
    """Most words of a text. Note that a whole book may have more."""
    min_mean_word_bytes: float = 3.0
    """Least mean length of a text's words, bytes."""
    max_mean_word_bytes: float = 10.0
    """Greatest mean length of a text's words, bytes."""
    min_alphabetic_share: float = Field(default=0.8, ge=0, le=1)
    """Least share of the words that begin with a letter."""
    max_symbol_share: float = Field(default=0.1, ge=0)
    """Greatest number of hash signs, and of ellipses, a word."""
    max_bullet_line_share: float = Field(default=0.9, ge=0, le=1)
    """Greatest share of the lines that begin with a bullet."""
    max_ellipsis_line_share: float = Field(default=0.3, ge=0, le=1)
    """Greatest share of the lines that end with an ellipsis."""
    min_stop_words: int = Field(default=2, ge=0)
    """Fewest occurrences of `stop_words`; 0 turns the rule off."""
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")
    """Words that running text of the language has."""
    repetition: RepetitionConfig | None = RepetitionConfig()
    """Limits of self-repetition; null turns the rules off."""
    language: LanguageConfig | None = None
    """Languages to keep; null keeps all."""


def drop_reasons(batch: TextBatch, config: FiltersConfig) -> Reasons:
    """The name of the first rule that each text breaks, or KEPT: [D]."""
    reasons = np.full(len(batch.texts), KEPT, dtype="<U40")
    for name, broken in _rules(batch, config, reasons):
        reasons[(reasons == KEPT) & broken] = name
    if config.language is not None:
        for number in np.flatnonzero(reasons == KEPT).tolist():
            other = other_language(batch.texts[number], config.language)
            if other:
                reasons[number] = f"language {other}"
    return reasons


def _rules(
    batch: TextBatch, config: FiltersConfig, reasons: Reasons
) -> Iterator[tuple[str, Flags]]:
    """(name, whether each text breaks it) of each rule; `reasons` are those found so far: a text
    that has one need not be measured any more."""
    words = batch.word_counts  # [D]
    per_word = 1 / np.maximum(words, 1)
    yield "empty", words == 0
    yield "too few words", words < config.min_words
    yield "too many words", words > config.max_words
    mean_bytes = batch.word_bytes * per_word
    yield "words too short", mean_bytes < config.min_mean_word_bytes
    yield "words too long", mean_bytes > config.max_mean_word_bytes
    alphabetic = batch.sum_over_words(batch.word_begins_with_letter) * per_word
    yield "too few letters", alphabetic < config.min_alphabetic_share
    ellipses = _ellipses(batch)  # byte positions
    hash_signs = batch.count_at(np.flatnonzero(batch.data == ord("#")))
    symbols = np.maximum(hash_signs, batch.count_at(ellipses)) * per_word
    yield "too many symbols", symbols > config.max_symbol_share
    if config.min_stop_words:
        is_stop = np.isin(batch.word_hashes, _hashes_of(config.stop_words))
        yield "too few stop words", batch.sum_over_words(is_stop) < config.min_stop_words
    yield from _line_rules(batch, config, ellipses)
    if config.repetition is not None:
        yield from _repetition_rules(batch, config.repetition, reasons)


def _line_rules(
    batch: TextBatch, config: FiltersConfig, ellipses: I64
) -> Iterator[tuple[str, Flags]]:
    starts, ends = batch.line_bounds
    text = batch.text_of(starts)
    num_texts = len(batch.texts)
    lines = np.maximum(np.bincount(text, minlength=num_texts), 1)
    bullets = np.bincount(text[_is_bullet(batch, starts)], minlength=num_texts)
    yield "mostly bullets", bullets / lines > config.max_bullet_line_share
    ellipsis_ends = np.isin(ends - 3, ellipses)  # the character takes three bytes, too
    cut_off = np.bincount(text[ellipsis_ends], minlength=num_texts)
    yield "too many cut-off lines", cut_off / lines > config.max_ellipsis_line_share


def _repetition_rules(
    batch: TextBatch, config: RepetitionConfig, reasons: Reasons
) -> Iterator[tuple[str, Flags]]:
    lines, line_bytes = repeated_units(batch, *batch.line_bounds)
    yield "repeated lines", lines > config.max_repeated_line_share
    yield "repeated lines (bytes)", line_bytes > config.max_repeated_line_byte_share
    paragraphs, paragraph_bytes = repeated_units(batch, *batch.paragraph_bounds)
    yield "repeated paragraphs", paragraphs > config.max_repeated_paragraph_share
    too_many_bytes = paragraph_bytes > config.max_repeated_paragraph_byte_share
    yield "repeated paragraphs (bytes)", too_many_bytes
    # An n-gram consists of two halves of at most ceil(n / 2) <= 2 words; the longer of them is at
    # least as frequent and half as long, so that texts whose 2-grams stay under half of a limit
    # for n = 2, 3, 4 need not be counted for it.
    suspect = np.ones(len(batch.texts), dtype=bool)
    common = sorted(config.max_common_ngram_share.items())
    for n, limit in common:
        halved = n == 2 and common[-1][0] <= 4
        ceiling = min(value / (1 + (k > 2)) for k, value in common) if halved else limit
        share = most_common_ngram_share(batch, n, suspect & (reasons == KEPT), ceiling)
        yield f"one common {n}-gram", share > limit
        if halved:
            suspect = share > ceiling
    limits = sorted(config.max_repeated_ngram_share.items())
    # What lies in repeated (n + 1)-grams lies in repeated n-grams too, so that only texts above the
    # smallest of all later limits need to be measured again.
    suspect = np.ones(len(batch.texts), dtype=bool)
    for position, (n, limit) in enumerate(limits):
        share = repeated_ngram_share(batch, n, suspect & (reasons == KEPT))
        yield f"repeated {n}-grams", share > limit
        later = [other for _, other in limits[position + 1 :]]
        suspect &= share > min(later, default=1.0)
        if not suspect.any():
            return


def _is_bullet(batch: TextBatch, starts: I64) -> Flags:
    first = batch.data[starts]
    result: Flags = (first == ord("*")) | (first == ord("-"))
    lead = np.flatnonzero(first >= 0xC2)
    for bullet in ("•", "‣", "▪", "◦", "●", "·", "–"):
        encoded = bullet.encode()
        same = np.ones(len(lead), dtype=bool)
        for offset, byte in enumerate(encoded):
            same &= batch.data[starts[lead] + offset] == byte
        result[lead[same]] = True
    return result


def _hashes_of(words: tuple[str, ...]) -> U64:
    return TextBatch(normalise([" ".join(words)])).word_hashes


def _ellipses(batch: TextBatch) -> I64:
    """Where an ellipsis begins: three dots, or the character of its own."""
    data = batch.data
    dots = np.flatnonzero(data == ord("."))
    triple = dots[:-2][dots[2:] - dots[:-2] == 2]
    last = triple[np.diff(triple, append=triple[-1:] + 9) > 1]  # of a longer run, only its end
    lead = np.flatnonzero(data == 0xE2)
    character = lead[(data[lead + 1] == 0x80) & (data[lead + 2] == 0xA6)]
    return np.sort(np.concatenate([last, character]))
