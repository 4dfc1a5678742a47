"""Span masking (Joshi et al. 2020, SpanBERT, section 3.1): spans of whole words are chosen.

n rows, R tokens in a row, K label slots of a row.
"""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from model.objectives.choice import positions_of, round_half_up_array
from model.objectives.masking import MaskedRows, MaskingConfig, RowsToMask
from model.objectives.vocabulary import Vocabulary
from model.objectives.words import number_words

# Attempts for each token of the budget: most overlap what is already chosen at high rates.
_ATTEMPTS_PER_SLOT = 4


class SpanMaskingConfig(MaskingConfig):
    """Spans of words, of geometric length, are chosen until the rate is reached.

    What becomes of the chosen tokens is one decision for a whole span, as in SpanBERT.
    """

    READS_WORDS: ClassVar[bool] = True

    type: Literal["span"] = "span"
    stop_probability: float = Field(0.2, gt=0, le=1)
    """p of the geometric distribution of span lengths."""
    max_span_words: int = Field(10, gt=0)
    """Lengths above this are not drawn (the distribution is cut and rescaled)."""

    def length_probabilities(self) -> NDArray[np.float64]:
        """P(length = 1 ... max_span_words): p (1 - p)^(length - 1), rescaled to sum to 1."""
        lengths = np.arange(self.max_span_words)
        weights = self.stop_probability * (1 - self.stop_probability) ** lengths
        probabilities: NDArray[np.float64] = weights / weights.sum()
        return probabilities

    def mask(self, batch: RowsToMask, vocabulary: Vocabulary) -> MaskedRows:
        assert vocabulary.word_starts is not None
        num_slots = self.num_slots(batch.rows.shape[1])
        num_attempts = _ATTEMPTS_PER_SLOT * num_slots
        words = batch.words(num_attempts + 2 * num_slots)
        maskable = batch.ordinary(vocabulary.special)
        budget = round_half_up_array(batch.rate(self.mask_rate), maskable.sum(axis=1))  # [n]
        word_of = number_words(batch.rows, maskable, vocabulary.word_starts)
        span_of = self._choose_spans(words[:, :num_attempts], word_of, maskable, budget)
        positions, used = positions_of(span_of >= 0, num_slots)
        # One decision for a span: its slots share the high half of one word. Each draws its own
        # random id, from the low half of another.
        span = np.maximum(np.take_along_axis(span_of, positions, axis=1), 0) % num_slots
        decisions = np.take_along_axis(words[:, num_attempts : num_attempts + num_slots], span, 1)
        low = words[:, num_attempts + num_slots :] & np.uint64(0xFFFFFFFF)
        slots = (decisions & np.uint64(0xFFFFFFFF00000000)) | low
        return self.masked(batch, positions, used, slots, vocabulary)

    def _choose_spans(
        self,
        words: NDArray[np.uint64],
        word_of: NDArray[np.int64],
        maskable: NDArray[np.bool_],
        budget: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """[n, R] the number of the span that a token is chosen in, -1 if it is in none.

        Attempt a is made for all rows at once: a start among the row's words (high half of word
        a) and a length (low half). A span that touches a chosen or a special token is not chosen;
        the last one is cut at the budget.
        """
        num_rows, row_tokens = maskable.shape
        cumulative = np.cumsum(self.length_probabilities())
        uniform = (words & np.uint64(0xFFFFFFFF)).astype(np.float64) * 2.0**-32
        lengths = np.searchsorted(cumulative, uniform, side="right") + 1  # [n, attempts], words
        lengths = np.minimum(lengths, self.max_span_words)
        num_words = word_of[:, -1:] + 1
        starts = (words >> np.uint64(32)).astype(np.int64) * num_words >> 32  # word numbers
        span_of = np.full((num_rows, row_tokens), -1, np.int64)
        left = budget.copy()
        num_spans = np.zeros(num_rows, np.int64)
        for attempt in range(words.shape[1]):
            open_rows = np.flatnonzero(left > 0)
            if not len(open_rows):
                break
            start = starts[open_rows, attempt, None]
            end = start + lengths[open_rows, attempt, None]
            numbers = word_of[open_rows]
            inside: NDArray[np.bool_] = (numbers >= start) & (numbers < end)
            is_free = maskable[open_rows] & (span_of[open_rows] < 0)
            fits = np.asarray(~(inside & ~is_free).any(axis=1))
            inside &= fits[:, None]
            inside &= inside.cumsum(axis=1) <= left[open_rows, None]
            span_of[open_rows] = np.where(inside, num_spans[open_rows, None], span_of[open_rows])
            left[open_rows] -= inside.sum(axis=1)
            num_spans[open_rows] += fits
        return span_of
