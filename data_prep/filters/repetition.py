"""How much of a text repeats itself: Gopher's repetition rules.

Rae et al. 2021, "Scaling Language Models", table A1. All texts of a batch are measured at once; an
n-gram, line or paragraph is *repeated* if the same one occurs earlier in the same text.
Legend: D documents, T tokens, G n-grams, L lines or paragraphs of a batch.
"""

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveInt

from configs.load import Config
from data_prep.filters.verdicts import Verdicts
from data_prep.text.batch import I64, U64, TextBatch
from data_prep.text.recurring import TEXT_KEY

F64 = npt.NDArray[np.float64]
_PLACES_PER_KEY = 4
_OTHER_PLACES = np.uint64(0x9FB21C651E98DF25)
"""Odd, so that different keys stay different."""


class RepetitionConfig(Config):
    """Limits of self-repetition (Gopher, table A1).

    A line, paragraph or n-gram is repeated if the same one occurs earlier in the text.
    """

    max_repeated_line_share: float = 0.30
    """Greatest share of the lines that are repeated."""
    max_repeated_line_byte_share: float = 0.20
    """Greatest share of the bytes of all lines that are in repeated ones."""
    max_repeated_paragraph_share: float = 0.30
    """Greatest share of the paragraphs that are repeated."""
    max_repeated_paragraph_byte_share: float = 0.20
    """Greatest share of the bytes of all paragraphs that are in repeated ones."""
    max_common_ngram_share: dict[PositiveInt, float] = Field(
        default_factory=lambda: {2: 0.20, 3: 0.18, 4: 0.16}
    )
    """Greatest share of the bytes of all words that the most frequent n-gram makes up, by n."""
    max_repeated_ngram_share: dict[PositiveInt, float] = Field(
        default_factory=lambda: {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
    )
    """Greatest share of the bytes of all words that are in repeated n-grams, by n."""


def drop_repeated_lines(batch: TextBatch, limits: RepetitionConfig, verdicts: Verdicts) -> None:
    """Drops texts in which too many lines or paragraphs are repeated."""
    lines, line_bytes = repeated_units(batch, *batch.line_bounds)
    verdicts.drop_above("repeated lines", lines, limits.max_repeated_line_share)
    verdicts.drop_above("repeated lines (bytes)", line_bytes, limits.max_repeated_line_byte_share)
    paragraphs, paragraph_bytes = repeated_units(batch, *batch.paragraph_bounds)
    verdicts.drop_above("repeated paragraphs", paragraphs, limits.max_repeated_paragraph_share)
    most_bytes = limits.max_repeated_paragraph_byte_share
    verdicts.drop_above("repeated paragraphs (bytes)", paragraph_bytes, most_bytes)


def drop_common_ngrams(batch: TextBatch, limits: RepetitionConfig, verdicts: Verdicts) -> None:
    """Drops texts of which one n-gram makes up too much."""
    # An n-gram consists of two halves of at most ceil(n / 2) <= 2 words; the longer of them is at
    # least as frequent and half as long. So texts whose 2-grams stay under half of a limit for
    # n = 2, 3, 4 need not be counted for it.
    suspect = np.ones(len(batch.texts), dtype=bool)
    common = sorted(limits.max_common_ngram_share.items())
    for n, limit in common:
        halved = n == 2 and common[-1][0] <= 4 and not verdicts.is_exact
        ceiling = min(value / (1 + (k > 2)) for k, value in common) if halved else limit
        among, weights = verdicts.to_measure, verdicts.weights
        sought = 0.0 if verdicts.is_exact else ceiling
        share = most_common_ngram_share(batch, n, suspect & among, sought)
        verdicts.drop_above(f"one common {n}-gram", share, limit, weights)
        if halved:
            suspect = share > ceiling


def drop_repeated_ngrams(batch: TextBatch, limits: RepetitionConfig, verdicts: Verdicts) -> None:
    """Drops texts of which repeated n-grams make up too much."""
    # What is in repeated (n + 1)-grams is in repeated n-grams too, so only texts above the smallest
    # of all later limits need to be measured again.
    suspect = np.ones(len(batch.texts), dtype=bool)
    repeated = sorted(limits.max_repeated_ngram_share.items())
    for position, (n, limit) in enumerate(repeated):
        among, weights = verdicts.to_measure, verdicts.weights
        share = repeated_ngram_share(batch, n, suspect & among)
        verdicts.drop_above(f"repeated {n}-grams", share, limit, weights)
        if verdicts.is_exact:
            continue
        later = [value for _, value in repeated[position + 1 :]]
        suspect &= share > min(later, default=1.0)
        if not (suspect.any() or verdicts.has_statistics):
            return


def repeated_units(batch: TextBatch, starts: I64, ends: I64) -> tuple[F64, F64]:
    """Share of each text's lines (or paragraphs) that are repeated, and of their bytes: [D], [D].

    `starts`, `ends`: [L] bounds of the lines. Lines without words are not counted.
    """
    hashes, words = batch.unit_hashes(starts)
    counted = np.flatnonzero(words)
    text = batch.text_of(starts[counted])
    size = (ends - starts)[counted]
    repeated = _repeated(_keyed(hashes[counted], text))
    num_texts = len(batch.texts)
    units = np.bincount(text, minlength=num_texts)
    length = np.bincount(text, size, minlength=num_texts)
    repeated_count = np.bincount(text[repeated], minlength=num_texts)
    repeated_length = np.bincount(text[repeated], size[repeated], minlength=num_texts)
    return repeated_count / np.maximum(units, 1), repeated_length / np.maximum(length, 1)


def most_common_ngram_share(
    batch: TextBatch, n: int, texts: npt.NDArray[np.bool_], ceiling: float
) -> F64:
    """Share of each text's word bytes that are in its most frequent n-gram: [D].

    Only the chosen `texts` ([D]) are measured; the share of the rest, and one of at most `ceiling`,
    is given as 0.
    """
    share = np.zeros(len(batch.texts))
    hashes, first, end, text = _ngrams_of(batch, n, texts)
    if not len(first):
        return share
    size = (batch.token_bytes_before[end] - batch.token_bytes_before[first]).astype(np.float64)
    keys = _keyed(hashes, text)
    counts = np.bincount(_first_equal(keys))
    often = np.flatnonzero(counts > 1)
    total = np.maximum(batch.word_bytes, 1)[text[often]]
    np.maximum.at(share, text[often], counts[often] * size[often] / total)
    share[share <= ceiling] = 0
    return share


def repeated_ngram_share(batch: TextBatch, n: int, texts: npt.NDArray[np.bool_]) -> F64:
    """Share of each text's word bytes that are in repeated n-grams, none counted twice: [D].

    Only the chosen `texts` ([D]) are measured; the share of the rest is given as 0.
    """
    share = np.zeros(len(batch.texts))
    if not texts.any():
        return share
    hashes, first, end, text = _ngrams_of(batch, n, texts)
    repeated = _repeated(_keyed(hashes, text))
    if not len(repeated):
        return share
    text, first, end = text[repeated], first[repeated], end[repeated]
    uncovered = np.maximum(first, np.append(0, end[:-1]))  # where the one before ends
    new_bytes = batch.token_bytes_before[end] - batch.token_bytes_before[uncovered]
    covered_bytes = np.bincount(text, new_bytes, minlength=len(batch.texts))
    return covered_bytes / np.maximum(batch.word_bytes, 1)


def _ngrams_of(batch: TextBatch, n: int, texts: npt.NDArray[np.bool_]) -> tuple[U64, I64, I64, I64]:
    """(hash, first token, token after the last, text) of the n-grams of the chosen texts that may
    be repeated."""
    hashes, first, end = batch.recurring_ngrams(n, texts)
    return hashes, first, end, batch.token_text[first]


def _keyed(hashes: U64, text: I64) -> U64:
    """Hashes that are equal only within one text."""
    return hashes ^ (text.astype(np.uint64) + np.uint64(1)) * TEXT_KEY


def _repeated(keys: U64) -> I64:
    """Positions of the keys that occur earlier too."""
    return np.flatnonzero(_first_equal(keys) != np.arange(len(keys)))


def _first_equal(keys: U64) -> I64:
    """The position at which the key of each position occurs first.

    A table holds the first of the keys that share a place in it; the few that differ from it are
    looked up in a table of their own.
    """
    bits = max(int(len(keys) * _PLACES_PER_KEY).bit_length(), 4)
    places = (keys >> np.uint64(64 - bits)).view(np.int64)
    table = np.empty(1 << bits, dtype=np.int64)
    table[places[::-1]] = np.arange(len(keys))[::-1]  # of equal places, the last assignment holds
    first: I64 = table[places]
    others = np.flatnonzero(keys[first] != keys)
    if len(others):
        first[others] = others[_first_equal(keys[others] * _OTHER_PLACES)]
    return first
