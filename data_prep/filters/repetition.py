"""How much of a text repeats itself: the measures of Gopher's repetition rules.

Rae et al. 2021, "Scaling Language Models", table A1. All texts of a batch are measured at once; an
n-gram, line or paragraph is *repeated* when the same one stands earlier in the same text.
Legend: D documents, W words, G n-grams, L lines or paragraphs of a batch.
"""

import numpy as np
import numpy.typing as npt

from data_prep.text.batch import I64, U64, TextBatch

F64 = npt.NDArray[np.float64]
_TEXT_KEY = np.uint64(0xA0761D6478BD642F)
_SLOTS_PER_ITEM = 4


def repeated_units(batch: TextBatch, starts: I64, ends: I64) -> tuple[F64, F64]:
    """Share of each text's lines (or paragraphs) that are repeated, and of their bytes: [D], [D].

    `starts`, `ends`: [L] bounds of the lines. Lines without words do not count.
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
    """Share of each text's word bytes that lie in its most frequent n-gram: [D].

    Only the chosen `texts` ([D]) are measured, and those that are certain to stay under `ceiling`
    are not counted exactly; the others get 0.
    """
    share = np.zeros(len(batch.texts))
    hashes, first, text = _ngrams_of(batch, n, texts)
    if not len(first):
        return share
    size = (batch.word_bytes_before[first + n] - batch.word_bytes_before[first]).astype(np.float64)
    keys = _keyed(hashes, text)
    slots = _slots(keys)
    at_most = np.bincount(slots)[slots]  # how often it occurs, or more where a slot is shared
    total = np.maximum(batch.word_bytes, 1)
    suspect = np.zeros(len(batch.texts), dtype=bool)
    suspect[text[(at_most > 1) & (at_most * size > ceiling * total[text])]] = True
    chosen = np.flatnonzero(suspect[text] & (at_most > 1))
    order = chosen[np.argsort(keys[chosen], kind="stable")]
    begins = np.flatnonzero(np.append(True, keys[order[1:]] != keys[order[:-1]]))
    counts = np.diff(np.append(begins, len(order)))
    held = order[begins[: len(counts)]] if len(order) else order
    often = counts[: len(held)] > 1
    held, counts = held[often], counts[: len(often)][often]
    np.maximum.at(share, text[held], counts * size[held] / total[text[held]])
    return share


def repeated_ngram_share(batch: TextBatch, n: int, texts: npt.NDArray[np.bool_]) -> F64:
    """Share of each text's word bytes that lie in repeated n-grams, none counted twice: [D].

    Only the chosen `texts` ([D]) are measured; the others get 0.
    """
    share = np.zeros(len(batch.texts))
    hashes, first, text = _ngrams_of(batch, n, texts)
    repeated = first[_repeated(_keyed(hashes, text))]
    if not len(repeated):
        return share
    num_words = len(batch.word_text)
    opened = np.bincount(repeated, minlength=num_words + 1)
    closed = np.bincount(repeated + n, minlength=num_words + 1)
    covered = np.cumsum(opened[:-1] - closed[:-1]) > 0  # [W]
    starts, ends = batch.word_bounds
    covered_bytes = batch.sum_over_words((ends - starts) * covered)
    return covered_bytes / np.maximum(batch.word_bytes, 1)


def _ngrams_of(batch: TextBatch, n: int, texts: npt.NDArray[np.bool_]) -> tuple[U64, I64, I64]:
    """(hash, first word, text) of the n-grams of the chosen texts."""
    hashes, first = batch.ngram_hashes(n)
    text = batch.word_text[first]
    if texts.all():
        return hashes, first, text
    chosen = np.flatnonzero(texts[text])
    return hashes[chosen], first[chosen], text[chosen]


def _keyed(hashes: U64, text: I64) -> U64:
    """Hashes that are equal only within one text."""
    return hashes ^ (text.astype(np.uint64) + np.uint64(1)) * _TEXT_KEY


def _slots(keys: U64) -> I64:
    """A small table's slot for each key: equal keys share one, and a few others do."""
    bits = max(int(len(keys) * _SLOTS_PER_ITEM).bit_length(), 4)
    return (keys >> np.uint64(64 - bits)).astype(np.int64)


def _repeated(keys: U64) -> I64:
    """Positions of the keys that stand earlier too.

    A table finds the few keys that may have an equal; only those are sorted.
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
