"""Vectors for the tokens of a new vocabulary, from the embedding of an old one. Imports no torch.

Tokens that both vocabularies have keep their vectors. What a different token starts from is a
*mixture*: weights of old ids, the same for the word embedding and the decoder's bias.
V old ids, W new ids, H hidden, D width of auxiliary vectors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from configs.load import ConfigError
from model.token_texts import TokenTexts, is_extension, num_ids, piece_finder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Method = Literal["mean", "focus", "random"]
_CHUNK = 512
"""New tokens whose similarities are computed at once."""
_FIRST_TRIED = 256
"""Similarities of a token that are sorted first; rarely does the sparsemax need more."""


@dataclass(frozen=True)
class AuxiliaryVectors:
    """Static vectors of the new vocabulary, whose cosines say how similar tokens are."""

    matrix: NDArray[np.float32]
    """[W, D]."""
    found: NDArray[np.bool_]
    """[W] which tokens have one."""


@dataclass(frozen=True)
class TokenMixtures:
    """What each new id starts from."""

    old_ids: NDArray[np.int64]
    """[N] old ids, those of new id 0 first."""
    weights: NDArray[np.float64]
    """[N] their weights, which add up to 1 for each new id."""
    starts: NDArray[np.int64]
    """[W + 1] where the old ids of each new id start; none for one that is drawn at random."""
    kept: NDArray[np.bool_]
    """[W] which new ids have the vector of one old id unchanged: tokens of both vocabularies."""
    seed: int

    def vectors(self, old: NDArray[Any]) -> NDArray[np.float32]:
        """[W, H] of the old matrix [V, H], or [W] of the old bias [V].

        Random rows are drawn from the normal distribution of the old ones, column by column, with
        a generator for each id; random biases are the mean of the old ones.
        """
        old = np.asarray(old, dtype=np.float32)
        counts = np.diff(self.starts)
        result = np.zeros((len(counts), *old.shape[1:]), np.float32)
        mean, deviation = old.mean(axis=0, dtype=np.float64), old.std(axis=0, dtype=np.float64)
        for number, count in enumerate(counts.tolist()):
            at = slice(int(self.starts[number]), int(self.starts[number]) + count)
            if count == 1:
                result[number] = old[self.old_ids[at][0]]
            elif count:
                result[number] = self.weights[at] @ old[self.old_ids[at]].astype(np.float64)
            elif old.ndim == 1:
                result[number] = mean
            else:
                draws = np.random.default_rng([self.seed, number]).standard_normal(old.shape[1])
                result[number] = mean + deviation * draws
        return result

    def summary(self) -> str:
        """How many tokens are kept, mixed and drawn, in words."""
        drawn = int((np.diff(self.starts) == 0).sum())
        mixed = len(self.kept) - int(self.kept.sum()) - drawn
        return f"{self.kept.sum()} tokens kept, {mixed} from similar ones, {drawn} at random"


def extended_embedding(
    old_matrix: NDArray[np.float32],
    old_tokenizer: "Tokenizer",
    new_tokenizer: "Tokenizer",
    method: Method,
    seed: int,
    **options: Any,
) -> NDArray[np.float32]:
    """[W, H] the word embedding of the new vocabulary; `options` are those of `token_mixtures`."""
    sizes = {"old_size": len(old_matrix), **options}
    return token_mixtures(old_tokenizer, new_tokenizer, method, seed, **sizes).vectors(old_matrix)


def token_mixtures(
    old_tokenizer: "Tokenizer",
    new_tokenizer: "Tokenizer",
    method: Method,
    seed: int,
    *,
    old_size: int | None = None,
    new_size: int | None = None,
    special: Mapping[int, int] | None = None,
    auxiliary: AuxiliaryVectors | None = None,
) -> TokenMixtures:
    """What every id of the new tokenizer starts from.

    An extended tokenizer keeps all old ids. Of a different one, tokens with the same text (and the
    same mark of a preceding space) take the vector of the old token, and `special` says by new id
    whose old vector a special token takes. All others:

    - ``mean``: the mean of the old tokens that the old tokenizer gives for the token's text.
    - ``focus``: FOCUS (Dobler and de Melo 2023, equations 1 to 3): the tokens of both vocabularies,
      weighted by the sparsemax of the cosines of `auxiliary` vectors. Tokens without an auxiliary
      vector are treated as in ``mean``; in the paper they are drawn at random.
    - ``random``.

    Sizes are those of the matrices, where they have more rows than the tokenizers have ids. Raises
    ConfigError for ``focus`` without auxiliary vectors, or of which no shared token has one.
    """
    old_size = max(old_size or 0, num_ids(old_tokenizer))
    new_size = max(new_size or 0, num_ids(new_tokenizer))
    same = _shared(old_tokenizer, new_tokenizer, old_size, new_size, special or {})
    mixtures: dict[int, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
    if method == "focus":
        mixtures = _focus(same, auxiliary)
    if method != "random":
        pieces = piece_finder(old_tokenizer, new_tokenizer)
        unknown = TokenTexts(old_tokenizer).unknown_id  # its vector says nothing of a text
        for number in np.flatnonzero(same < 0).tolist():
            if number not in mixtures:
                found = [i for i in pieces(number) if i != unknown and i < old_size]
                if found:
                    ids, counts = np.unique(np.array(found, np.int64), return_counts=True)
                    mixtures[number] = ids, counts / counts.sum()
    for number in np.flatnonzero(same >= 0).tolist():
        mixtures[number] = same[number : number + 1], np.ones(1)
    nothing = np.empty(0, np.int64), np.empty(0)
    parts = [mixtures.get(number, nothing) for number in range(new_size)]
    return TokenMixtures(
        old_ids=np.concatenate([nothing[0], *(ids for ids, _ in parts)]),
        weights=np.concatenate([nothing[1], *(weights for _, weights in parts)]),
        starts=np.cumsum([0, *(len(ids) for ids, _ in parts)]),
        kept=same >= 0,
        seed=seed,
    )


def _shared(
    old: "Tokenizer", new: "Tokenizer", old_size: int, new_size: int, special: Mapping[int, int]
) -> NDArray[np.int64]:
    """[W] the old id with the same token; -1 for none."""
    same = np.full(new_size, -1, np.int64)
    if is_extension(old, new):
        same[: min(old_size, new_size)] = np.arange(min(old_size, new_size))
        first = num_ids(old)
        added = [n for n in new.get_vocab(with_added_tokens=True).values() if n >= first]
        same[added] = -1  # a padded matrix may have rows there, which no token was trained with
        return same
    old_ids = {key: number for number, key in TokenTexts(old).keys().items()}
    for number, key in TokenTexts(new).keys().items():
        same[number] = old_ids.get(key, -1)
    for number, old_id in special.items():
        same[number] = old_id
    return same


def _focus(
    same: NDArray[np.int64], auxiliary: AuxiliaryVectors | None
) -> dict[int, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """By new id, (old ids, weights) of tokens that are not shared and have an auxiliary vector."""
    if auxiliary is None or len(auxiliary.matrix) < len(same):
        raise ConfigError("new_tokens focus needs auxiliary vectors for all new tokens")
    lengths = np.linalg.norm(auxiliary.matrix.astype(np.float64), axis=1)
    has_vector = (auxiliary.found & (lengths > 0))[: len(same)]
    shared, wanted = (
        np.flatnonzero(has_vector & (same >= 0)),
        np.flatnonzero(has_vector & (same < 0)),
    )
    if not len(shared):
        raise ConfigError(
            "new_tokens focus: no token of both vocabularies has an auxiliary vector: take vectors "
            "of the language of the corpus, or set new_tokens mean"
        )
    unit = auxiliary.matrix / np.maximum(lengths, 1e-30)[:, None]
    result = {}
    for first in range(0, len(wanted), _CHUNK):
        numbers = wanted[first : first + _CHUNK]
        for number, cosines in zip(numbers.tolist(), unit[numbers] @ unit[shared].T, strict=True):
            weights = sparsemax(cosines)
            used = np.flatnonzero(weights)
            result[number] = same[shared[used]], weights[used]
    return result


def sparsemax(scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The Euclidean projection of `scores` [N] on the probability simplex (Martins and Astudillo
    2016, algorithm 1): [N], mostly zeros."""
    scores = np.asarray(scores, np.float64)
    size = min(_FIRST_TRIED, len(scores))
    while True:
        highest = np.sort(np.partition(scores, len(scores) - size)[len(scores) - size :])[::-1]
        above = 1 + np.arange(1, size + 1) * highest > np.cumsum(highest)
        support = int(np.flatnonzero(above)[-1]) + 1
        if support < size or size == len(scores):
            break
        size = min(4 * size, len(scores))
    threshold = (highest[:support].sum() - 1) / support
    weights = np.maximum(scores - threshold, 0)
    result: NDArray[np.float64] = weights / weights.sum()
    return result
