"""What all objectives share: their config, their one argument and their result.

An objective is one file with a config class: derived from `MaskingConfig`, with an entry in
`model.objectives.union`, or from `ObjectiveSettings` if it masks nothing. n rows, R tokens in a
row, K label slots of a row, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from configs.load import Config, ConfigError
from model.objectives.choice import round_half_up
from model.objectives.corruption import Corruption, corrupt
from model.objectives.head_names import MLM_HEAD
from model.objectives.mask_rate import MaskRate, highest_rate, rate_at
from model.objectives.philox import row_words
from model.objectives.vocabulary import SpecialIds, Vocabulary

UNUSED_LABEL = -100


@dataclass(frozen=True)
class RowsToMask:
    """Rows and all that their masks depend on besides the objective."""

    rows: NDArray[np.unsignedinteger]
    """[n, R] token ids."""
    seed: int
    passes: NDArray[np.integer]
    """[n] how often each row was trained on before (its epoch)."""
    row_numbers: NDArray[np.integer]
    """[n] the number of each row in its source."""
    sources: NDArray[np.integer] | None = None
    """[n] the number of each row's source; None: 0."""
    progress: float | NDArray[np.floating] = 0.0
    """Progress of the training from 0 to 1, one number or [n], for mask-rate schedules."""

    def words(self, count: int) -> NDArray[np.uint64]:
        """[n, count] random words, a function of (seed, pass, source, row number)."""
        zeros = np.zeros(len(self.rows), np.int64)
        return row_words(
            count,
            seed=self.seed,
            passes=self.passes,
            sources=zeros if self.sources is None else self.sources,
            row_numbers=self.row_numbers,
        )

    def rate(self, mask_rate: MaskRate) -> NDArray[np.floating]:
        """`mask_rate` at the progress of the rows: [n], or a scalar array."""
        return rate_at(mask_rate, self.progress)

    def ordinary(self, special: SpecialIds) -> NDArray[np.bool_]:
        """[n, R] which tokens are no special ones."""
        return special.are_ordinary(self.rows)


@dataclass(frozen=True)
class MaskedRows:
    """What the network gets: masked tokens, and where and what it must predict."""

    tokens: NDArray[np.integer]
    """[n, R] token ids after masking, of the type of the rows."""
    positions: NDArray[np.integer]
    """[n, K] positions that predict, in ascending order, 0 in unused slots at the end: the masked
    ones, or under a causal objective those before the predicted tokens."""
    labels: NDArray[np.integer]
    """[n, K] the original ids that are predicted at `positions`, -100 in unused slots."""
    sample_keys: NDArray[np.int64] | None = None
    """[n] random words, of objectives that draw tokens from the network's predictions."""


class ObjectiveSettings(Config):
    """Base of all objectives."""

    READS_WORDS: ClassVar[bool] = False
    """As `reads_words`, where it does not depend on the settings."""
    IS_CAUSAL: ClassVar[bool] = False
    """Whether no token may see a later one."""

    @property
    def reads_words(self) -> bool:
        """Whether the objective needs to know which tokens start a word."""
        return self.READS_WORDS

    @property
    def head_weights(self) -> Mapping[str, float]:
        """The factor on the mean loss of each head that is trained."""
        return {MLM_HEAD: 1.0}

    def num_slots(self, row_tokens: int) -> int:
        """K, the label slots of a row of `row_tokens` tokens: the most that can be predicted."""
        raise NotImplementedError

    def mask(self, batch: RowsToMask, vocabulary: Vocabulary) -> MaskedRows:
        """The masked rows of `batch`, whose ids are all in the vocabulary."""
        raise NotImplementedError

    def build(
        self, vocabulary: SpecialIds | int, word_starts: NDArray[np.bool_] | None = None
    ) -> "Objective":
        """The objective for a vocabulary; a number is its size, in RoBERTa's layout.

        `word_starts` [V] says which tokens start a word. Raises ConfigError if it is needed and
        missing, or of a different length.
        """
        special = SpecialIds.of(vocabulary) if isinstance(vocabulary, int) else vocabulary
        size = special.vocab_size
        if self.reads_words and (word_starts is None or word_starts.shape != (size,)):
            raise ConfigError(
                f"objective {getattr(self, 'type', type(self).__name__)} needs to know which of "
                f"the {size} tokens start a word: give the tokenizer's vocabulary"
            )
        return Objective(self, Vocabulary(special, word_starts))


class MaskingConfig(ObjectiveSettings):
    """Base of objectives that mask: the share of tokens chosen, and what becomes of them."""

    mask_rate: MaskRate = 0.15
    """Share of a row's ordinary tokens that is chosen: a number, or a schedule."""
    corruption: Corruption = Corruption()
    """What becomes of the chosen tokens."""

    def num_slots(self, row_tokens: int) -> int:
        """K, the label slots of a row of `row_tokens` tokens: the most that can be chosen."""
        return max(1, round_half_up(highest_rate(self.mask_rate) * row_tokens))

    def masked(
        self,
        batch: RowsToMask,
        positions: NDArray[np.int64],
        used: NDArray[np.bool_],
        words: NDArray[np.uint64],
        vocabulary: Vocabulary,
    ) -> MaskedRows:
        """The rows with the tokens at the used `positions` [n, K] corrupted by `words` [n, K]."""
        tokens, labels = corrupt(
            batch.rows, positions, used, words, self.corruption, vocabulary.special
        )
        labels[~used] = UNUSED_LABEL
        return MaskedRows(tokens, positions, labels)


@dataclass(frozen=True)
class Objective:
    """An objective on a vocabulary."""

    config: ObjectiveSettings
    vocabulary: Vocabulary

    def mask_rows(self, batch: RowsToMask) -> MaskedRows:
        """The masked rows, a pure function of `batch`; a row's masks do not depend on the others.

        Raises ValueError when an id is outside of the vocabulary.
        """
        check_ids(batch.rows, self.vocabulary.special)
        return self.config.mask(batch, self.vocabulary)


def check_ids(rows: NDArray[np.unsignedinteger], special: SpecialIds) -> None:
    """Raises ValueError that names the first row with an id outside of the vocabulary."""
    last = special.vocab_size - 1
    if rows.size and int(rows.max()) > last:
        bad = int(np.argmax((rows > last).any(axis=1)))
        raise ValueError(
            f"row {bad} of the batch holds the id {int(rows[bad].max())}, but the vocabulary ends "
            f"at {last}: the rows were made with a different tokenizer"
        )
