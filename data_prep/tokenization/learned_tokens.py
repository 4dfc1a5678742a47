"""Learns new tokens for an existing vocabulary: the most frequent pairs of its tokens, merged.

The words of a corpus are segmented by the existing model. Again and again the most frequent pair
of neighbouring tokens becomes a token (byte-pair encoding, Sennrich et al. 2016, algorithm 1,
continued where the existing vocabulary ends).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import NamedTuple

MIN_FREQUENCY = 2
"""Occurrences of a pair that becomes a token."""
Pair = tuple[str, str]
Pieces = list[str]


class NewToken(NamedTuple):
    """A token that two others make."""

    text: str
    left: str
    right: str
    num: int
    """Occurrences of the pair when it was merged."""


class Rules(NamedTuple):
    """What a kind of model does with pairs."""

    joined: Callable[[str, str], str]
    """The token that two neighbours make."""
    applied: Callable[[Pieces, NewToken], Pieces]
    """The segmentation of a word, as it is with a new token."""
    accepts: Callable[[NewToken], bool]
    """Whether the model would choose the token in place of the two."""
    reads_left: bool
    """Whether a new token may change all words with its left part, not only those with the pair."""


def learn_tokens(
    words: Mapping[str, int],
    segment: Callable[[str], Sequence[str]],
    vocabulary: Collection[str],
    excluded: Collection[str],
    rules: Rules,
    num_tokens: int,
) -> list[NewToken]:
    """Up to `num_tokens` new tokens in the order in which they were merged.

    `words` are the corpus's words with their counts; `excluded` are tokens that are no text
    (special, unknown, bytes) and never merged. The result depends on the counts only: of equally
    frequent pairs, the first in the order of code points is merged first. Fewer tokens are
    returned where no pair is left that occurs `MIN_FREQUENCY` times.
    """
    known = set(vocabulary)
    pairs = _Pairs(words, segment, excluded, by_left=rules.reads_left)
    tokens: list[NewToken] = []
    while len(tokens) < num_tokens:
        found = pairs.most_frequent()
        if found is None:
            break
        (left, right), count = found
        token = NewToken(rules.joined(left, right), left, right, count)
        if token.text in known or not rules.accepts(token):
            pairs.drop((left, right))
            continue
        known.add(token.text)
        tokens.append(token)
        pairs.apply(token, rules)
    return tokens


class _Pairs:
    """The neighbouring tokens of all words, counted."""

    def __init__(
        self,
        words: Mapping[str, int],
        segment: Callable[[str], Sequence[str]],
        excluded: Collection[str],
        by_left: bool,
    ) -> None:
        self._excluded, self._by_left = frozenset(excluded), by_left
        self._pieces: list[Pieces] = []
        self._num: list[int] = []
        self._counts: Counter[Pair] = Counter()
        self._words_of: defaultdict[Pair | str, set[int]] = defaultdict(set)
        self._dropped: set[Pair] = set()
        for word, num in words.items():
            pieces = list(segment(word))
            if len(pieces) > 1:
                self._pieces.append(pieces)
                self._num.append(num)
                self._add(len(self._pieces) - 1, 1)
        self._heap = [(-count, pair) for pair, count in self._counts.items()]
        heapify(self._heap)

    def _add(self, word: int, sign: int) -> set[Pair]:
        """Counts the pairs of a word; returns them."""
        changed = set()
        for pair in pairwise(self._pieces[word]):
            if self._excluded.isdisjoint(pair):
                self._counts[pair] += sign * self._num[word]
                self._words_of[pair[0] if self._by_left else pair].add(word)
                changed.add(pair)
        return changed

    def most_frequent(self) -> tuple[Pair, int] | None:
        """The pair that occurs most often, and how often; None if none does often enough."""
        while self._heap:
            negative, pair = heappop(self._heap)
            count = self._counts[pair]
            if pair in self._dropped or count < MIN_FREQUENCY:
                continue
            if count == -negative:
                return pair, count
            if count < -negative:  # a higher count has an entry of its own
                heappush(self._heap, (-count, pair))
        return None

    def drop(self, pair: Pair) -> None:
        """Never returns the pair again."""
        self._dropped.add(pair)

    def apply(self, token: NewToken, rules: Rules) -> None:
        """Segments again the words that a new token changes."""
        changed: set[Pair] = set()
        key = token.left if self._by_left else (token.left, token.right)
        for word in self._words_of.pop(key, set()):
            changed |= self._add(word, -1)
            self._pieces[word] = rules.applied(self._pieces[word], token)
            changed |= self._add(word, 1)
        for pair in changed:
            if self._counts[pair] >= MIN_FREQUENCY:
                heappush(self._heap, (-self._counts[pair], pair))


def merged(pieces: Iterable[str], token: NewToken) -> Pieces:
    """`pieces` with every pair that makes `token` replaced by it, from the left."""
    result: Pieces = []
    for piece in pieces:
        if piece == token.right and result and result[-1] == token.left:
            result[-1] = token.text
        else:
            result.append(piece)
    return result
