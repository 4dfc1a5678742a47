"""How much of a text repeats itself: Gopher's repetition rules.

Rae et al. 2021, "Scaling Language Models", table A1. All texts of a batch are measured at once; an
n-gram, line or paragraph is *repeated* if the same one occurs earlier in the same text.
Legend: D documents of a batch.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveInt

from configs.load import Config
from data_prep.filters.verdicts import Verdicts
from data_prep.kernels import repeats as kernels
from data_prep.kernels.lines import Bounds
from data_prep.text.batch import I64, Flags, TextBatch

F64 = npt.NDArray[np.float64]


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


def repeated_units(batch: TextBatch, units: Bounds) -> tuple[F64, F64]:
    """Share of each text's lines (or paragraphs) that are repeated, and of their bytes: [D], [D].

    Lines without words are not counted.
    """
    hashes, words = batch.unit_hashes(units.starts)
    found = kernels.repeated_units(hashes, words, units.ends - units.starts, units.first)
    share = found.repeated / np.maximum(found.number, 1)
    return share, found.repeated_bytes / np.maximum(found.num_bytes, 1)


class RepeatedNgrams:
    """Measures the repeated n-grams of some texts of a batch."""

    def __init__(self, batch: TextBatch, texts: Flags) -> None:
        """`texts`: those that may be measured, [D]."""
        tokens = batch.tokens
        self._texts = texts
        self._word_bytes = np.maximum(tokens.word_bytes, 1)
        self._tokens = tokens.hashes, tokens.widths, tokens.starts, tokens.ends, tokens.first_tokens
        self._recurring = kernels.recurring_pairs(tokens.hashes, tokens.first_tokens, texts)

    def most_common_share(self, n: int, texts: Flags, ceiling: float) -> F64:
        """Share of each text's word bytes that are in its most frequent n-gram: [D].

        Only the chosen `texts` ([D]) are measured; the share of the rest, and one of at most
        `ceiling`, is given as 0.
        """
        share: F64 = self._measured(kernels.most_common_bytes, n, texts)
        share[share <= ceiling] = 0
        return share

    def repeated_share(self, n: int, texts: Flags) -> F64:
        """Share of each text's word bytes that are in repeated n-grams, none counted twice: [D].

        Only the chosen `texts` ([D]) are measured; the share of the rest is given as 0.
        """
        return self._measured(kernels.repeated_bytes, n, texts)

    def _measured(self, num_bytes: Callable[..., I64], n: int, texts: Flags) -> F64:
        assert not (texts & ~self._texts).any()
        return num_bytes(*self._tokens, texts, n, self._recurring) / self._word_bytes


def drop_repeated_lines(batch: TextBatch, limits: RepetitionConfig, verdicts: Verdicts) -> None:
    """Drops texts in which too many lines or paragraphs are repeated."""
    lines, line_bytes = repeated_units(batch, batch.layout.lines)
    verdicts.drop_above("repeated lines", lines, limits.max_repeated_line_share)
    verdicts.drop_above("repeated lines (bytes)", line_bytes, limits.max_repeated_line_byte_share)
    paragraphs, paragraph_bytes = repeated_units(batch, batch.layout.paragraphs)
    verdicts.drop_above("repeated paragraphs", paragraphs, limits.max_repeated_paragraph_share)
    most_bytes = limits.max_repeated_paragraph_byte_share
    verdicts.drop_above("repeated paragraphs (bytes)", paragraph_bytes, most_bytes)


def drop_common_ngrams(
    ngrams: RepeatedNgrams, limits: RepetitionConfig, verdicts: Verdicts
) -> None:
    """Drops texts of which one n-gram makes up too much."""
    # An n-gram consists of two halves of at most ceil(n / 2) <= 2 words; the longer of them is at
    # least as frequent and half as long. So texts whose 2-grams stay under half of a limit for
    # n = 2, 3, 4 need not be counted for it.
    suspect = np.ones(len(verdicts.codes), dtype=bool)
    common = sorted(limits.max_common_ngram_share.items())
    for n, limit in common:
        halved = n == 2 and common[-1][0] <= 4 and not verdicts.is_exact
        ceiling = min(value / (1 + (k > 2)) for k, value in common) if halved else limit
        among, weights = verdicts.to_measure, verdicts.weights
        sought = 0.0 if verdicts.is_exact else ceiling
        share = ngrams.most_common_share(n, suspect & among, sought)
        verdicts.drop_above(f"one common {n}-gram", share, limit, weights)
        if halved:
            suspect = share > ceiling


def drop_repeated_ngrams(
    ngrams: RepeatedNgrams, limits: RepetitionConfig, verdicts: Verdicts
) -> None:
    """Drops texts of which repeated n-grams make up too much."""
    # What is in repeated (n + 1)-grams is in repeated n-grams too, so only texts above the smallest
    # of all later limits need to be measured again.
    suspect = np.ones(len(verdicts.codes), dtype=bool)
    repeated = sorted(limits.max_repeated_ngram_share.items())
    for position, (n, limit) in enumerate(repeated):
        among, weights = verdicts.to_measure, verdicts.weights
        share = ngrams.repeated_share(n, suspect & among)
        verdicts.drop_above(f"repeated {n}-grams", share, limit, weights)
        if verdicts.is_exact:
            continue
        later = [value for _, value in repeated[position + 1 :]]
        suspect &= share > min(later, default=1.0)
        if not (suspect.any() or verdicts.has_statistics):
            return
