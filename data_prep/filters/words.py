"""What the filters measure of a text's words (Gopher's rules, Rae et al. 2021, section A.1.1).

Legend: D documents of a batch.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.kernels.words import words_in
from data_prep.text.batch import I64, U64, Flags, TextBatch
from data_prep.text.normalise import normalise

F64 = npt.NDArray[np.float64]


def mean_word_characters(batch: TextBatch) -> F64:
    """The mean length of each text's words, characters: [D].

    NaN for a text mostly in scripts without spaces, where the length of words is not known.
    """
    words = batch.tokens.spaced_words
    mean: F64 = batch.tokens.spaced_characters / np.maximum(words, 1)
    mean[2 * words < batch.word_counts] = np.nan
    return mean


def letter_share(batch: TextBatch) -> F64:
    """The share of each text's words that start with a letter, of any script: [D]."""
    return batch.tokens.letter_widths / np.maximum(batch.tokens.word_widths, 1)


def symbols_per_word(batch: TextBatch, most: float) -> F64:
    """Hash signs, or ellipses if there are more of them, for each word of each text: [D].

    As in the paper, every piece of text between white space counts as a word, also one of symbols
    only. Those are counted only where the result may exceed `most`; elsewhere it is an upper bound.
    """
    symbols = np.maximum(batch.layout.hash_signs, batch.layout.ellipses)
    result: F64 = symbols / np.maximum(batch.word_counts, 1)
    for number in np.flatnonzero(result > most).tolist():  # few
        pieces = batch.texts[number].split()
        with_words = np.count_nonzero(TextBatch(pieces).token_counts) if pieces else 0
        words = max(int(batch.word_counts[number]) + len(pieces) - with_words, 1)
        result[number] = symbols[number] / words
    return result


def different_stop_words(batch: TextBatch, stop_words: Sequence[str], texts: Flags) -> I64:
    """How many of the `stop_words` each of the chosen `texts` ([D]) has; 0 for the rest: [D].

    Words that differ only in their normal form, or single tokens only in case, count as one.
    """
    words = _stop_words(tuple(stop_words))
    found = words_in(batch.token_hashes, batch.first_tokens, texts, words.hashes)
    counts: I64 = found.sum(axis=1)
    for word in words.others:
        for number in np.flatnonzero(texts).tolist():
            counts[number] += word in batch.texts[number]
    return counts


class _StopWords(NamedTuple):
    """Different stop words in normal form."""

    hashes: U64
    """Of those of a single token, ascending."""
    others: Sequence[bytes]
    """Those of several tokens, or none, which are looked for as they are."""


@cache
def _stop_words(given: tuple[str, ...]) -> _StopWords:
    words = list(dict.fromkeys(normalise(given)))
    batch = TextBatch(words)
    is_single = batch.token_counts == 1
    hashes = np.unique(batch.token_hashes[batch.first_tokens[:-1][is_single]])
    return _StopWords(hashes, [words[k] for k in np.flatnonzero(~is_single).tolist()])
