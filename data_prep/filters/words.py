"""What the filters measure of a text's words (Gopher's rules, Rae et al. 2021, section A.1.1).

Legend: D documents of a batch.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from data_prep.text.batch import I64, U64, TextBatch
from data_prep.text.normalise import normalise

F64 = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def mean_word_characters(batch: TextBatch) -> F64:
    """The mean length of each text's words, characters: [D].

    NaN for a text mostly in scripts without spaces, where the length of words is not known.
    """
    mean: F64 = batch.spaced_characters / np.maximum(batch.spaced_word_counts, 1)
    mean[2 * batch.spaced_word_counts < batch.word_counts] = np.nan
    return mean


def symbols_per_word(batch: TextBatch, most: float) -> F64:
    """Hash signs, or ellipses if there are more of them, for each word of each text: [D].

    As in the paper, every piece of text between white space counts as a word, also one of symbols
    only. Those are counted only where the result may exceed `most`; elsewhere it is an upper bound.
    """
    hash_signs = batch.count_at(np.flatnonzero(batch.data == ord("#")))
    symbols = np.maximum(hash_signs, batch.count_at(batch.ellipses))
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
    words = list(dict.fromkeys(normalise(list(stop_words))))
    tokens = TextBatch(words)
    found = np.zeros((len(batch.texts), len(words)), dtype=bool)
    single = np.flatnonzero(tokens.token_counts == 1)
    if len(single):
        hashes, different = np.unique(
            tokens.token_hashes[tokens.first_tokens[single]], return_index=True
        )
        single = single[different]
        chosen, places = _hashes_in(batch.token_hashes, batch.tokens_of(texts), hashes)
        found[batch.token_text[chosen], single[places]] = True
    for column in np.flatnonzero(tokens.token_counts != 1).tolist():  # of several characters
        for number in np.flatnonzero(texts).tolist():
            found[number, column] = words[column] in batch.texts[number]
    return np.where(texts, found.sum(axis=1), 0)


_PREFIX_BITS = np.uint64(12)


def _hashes_in(hashes: U64, tokens: I64, wanted: U64) -> tuple[I64, I64]:
    """(token, place in `wanted`) of those of the `tokens` whose hash is one of a few `wanted`.

    These are ascending and different.
    """
    prefixes = _prefix(wanted)
    first_with = np.full(1 << int(_PREFIX_BITS), -1)
    first_with[prefixes[::-1]] = np.arange(len(wanted))[::-1]
    place = first_with[_prefix(hashes if len(tokens) == len(hashes) else hashes[tokens])]
    likely = np.flatnonzero(place >= 0)
    tokens, place = tokens[likely], place[likely]
    found, places = [], []
    for _ in range(int(np.unique(prefixes, return_counts=True)[1].max())):
        same = wanted[place] == hashes[tokens]
        found.append(tokens[same])
        places.append(place[same])
        place = np.minimum(place + 1, len(wanted) - 1)
    return np.concatenate(found), np.concatenate(places)


def _prefix(hashes: U64) -> I64:
    return (hashes >> (np.uint64(64) - _PREFIX_BITS)).view(np.int64)
