"""How much of a text repeats itself: Gopher's repetition rules.

Rae et al. 2021, "Scaling Language Models", table A1. All texts of a batch are measured at once; an
n-gram, line or paragraph is *repeated* if the same one occurs earlier in the same text.
Legend: D documents, T tokens, G n-grams, L lines or paragraphs of a batch.
"""

import numpy as np
import numpy.typing as npt
from pydantic import Field

from configs.load import Config
from data_prep.filters.verdicts import Verdicts
from data_prep.text.batch import I64, U64, TextBatch

F64 = npt.NDArray[np.float64]
_TEXT_KEY = np.uint64(0xA0761D6478BD642F)
_SLOTS_PER_ITEM = 4


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
    max_common_ngram_share: dict[int, float] = Field(
        default_factory=lambda: {2: 0.20, 3: 0.18, 4: 0.16}
    )
    """Greatest share of the bytes of all words that the most frequent n-gram makes up, by n."""
    max_repeated_ngram_share: dict[int, float] = Field(
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

    Only those of the chosen `texts` ([D]) that may exceed `ceiling` are measured; the share of the
    rest is given as 0.
    """
    share = np.zeros(len(batch.texts))
    hashes, first, end, text = _ngrams_of(batch, n, texts)
    if not len(first):
        return share
    size = (batch.token_bytes_before[end] - batch.token_bytes_before[first]).astype(np.float64)
    keys = _keyed(hashes, text)
    slots = _slots(keys)
    at_most = np.bincount(slots)[slots]  # how often it occurs, or more where a slot is shared
    total = np.maximum(batch.word_bytes, 1)
    suspect = np.zeros(len(batch.texts), dtype=bool)
    suspect[text[(at_most > 1) & (at_most * size > ceiling * total[text])]] = True
    chosen = np.flatnonzero(suspect[text] & (at_most > 1))
    order = chosen[np.argsort(keys[chosen], kind="stable")]
    firsts = np.flatnonzero(np.append(True, keys[order[1:]] != keys[order[:-1]]))
    counts = np.diff(np.append(firsts, len(order)))
    held = order[firsts[: len(counts)]] if len(order) else order
    often = counts[: len(held)] > 1
    held, counts = held[often], counts[: len(often)][often]
    np.maximum.at(share, text[held], counts * size[held] / total[text[held]])
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
    num_tokens = len(batch.token_text)
    opened = np.bincount(first[repeated], minlength=num_tokens + 1)
    closed = np.bincount(end[repeated], minlength=num_tokens + 1)
    covered = np.cumsum(opened[:-1] - closed[:-1]) > 0  # [T]
    starts, ends = batch.token_bounds
    covered_bytes = batch.sum_over_tokens((ends - starts) * covered)
    return covered_bytes / np.maximum(batch.word_bytes, 1)


def _ngrams_of(batch: TextBatch, n: int, texts: npt.NDArray[np.bool_]) -> tuple[U64, I64, I64, I64]:
    """(hash, first token, token after the last, text) of the n-grams of the chosen texts."""
    hashes, first, end = batch.word_ngrams(n, texts)
    return hashes, first, end, batch.token_text[first]


def _keyed(hashes: U64, text: I64) -> U64:
    """Hashes that are equal only within one text."""
    return hashes ^ (text.astype(np.uint64) + np.uint64(1)) * _TEXT_KEY


def _slots(keys: U64) -> I64:
    """A slot of a small table for each key: equal keys share one, as do a few different ones."""
    bits = max(int(len(keys) * _SLOTS_PER_ITEM).bit_length(), 4)
    return (keys >> np.uint64(64 - bits)).astype(np.int64)


def _repeated(keys: U64) -> I64:
    """Positions of the keys that occur earlier too.

    A table finds the few keys that may occur twice; only those are sorted.
    """
    slots = _slots(keys)
    last = np.zeros(int(slots.max()) + 1 if len(slots) else 0, dtype=np.int32)
    numbers = np.arange(len(keys), dtype=np.int32)
    last[slots] = numbers
    shared = np.zeros(len(last), dtype=bool)
    shared[slots[last[slots] != numbers]] = True
    candidates = np.flatnonzero(shared[slots])
    order = candidates[np.argsort(keys[candidates], kind="stable")]
    return np.sort(order[1:][keys[order[1:]] == keys[order[:-1]]])
