"""Special tokens are neither masked nor drawn, wherever their ids are."""

import numpy as np
import pytest

from model.objectives import MaskedLanguageModelConfig, RowsToMask, SpecialIds, word_starts_of
from model.objectives.corruption import Corruption
from model.objectives.masking import MaskingConfig
from model.objectives.published import PublishedMaskingConfig
from model.objectives.span import SpanMaskingConfig
from model.objectives.whole_word import WholeWordMaskingConfig

SCATTERED = SpecialIds(
    begin=57, pad=3, end=90, unknown=0, mask=20, vocab_size=100, others=((5, 9), (58, 60), (91, 99))
)
ORDINARY = [1, 2, 4, *range(9, 20), *range(21, 57), *range(60, 90), 99]
OBJECTIVES = [
    MaskedLanguageModelConfig(),
    PublishedMaskingConfig(special_tokens=False),
    WholeWordMaskingConfig(),
    SpanMaskingConfig(),
]


def rows_of(special: SpecialIds, num_rows: int = 400) -> RowsToMask:
    """Rows of any ids but padding inside and the mask."""
    ids = np.setdiff1d(np.arange(special.vocab_size), [special.pad, special.mask])
    rows = np.random.default_rng(0).choice(ids, (num_rows, 64)).astype(np.uint16)
    rows[:, 0], rows[:, 40:] = special.begin, special.pad
    numbers = np.arange(num_rows)
    return RowsToMask(rows, seed=1, passes=0 * numbers, row_numbers=numbers)


@pytest.mark.parametrize("config", OBJECTIVES, ids=lambda config: config.type)
def test_special_ids_are_neither_chosen_nor_drawn(config: MaskingConfig) -> None:
    config = config.model_copy(update={"corruption": Corruption(mask=0.2, random=0.7)})
    batch = rows_of(SCATTERED)
    starts = np.arange(SCATTERED.vocab_size) % 2 == 0
    masked = config.build(SCATTERED, starts).mask_rows(batch)
    labels = masked.labels[masked.labels >= 0]
    assert set(labels.tolist()) == set(ORDINARY)
    changed = masked.tokens != batch.rows
    drawn = set(masked.tokens[changed].tolist())
    assert drawn - {SCATTERED.mask} == set(ORDINARY)
    np.testing.assert_array_equal(batch.rows[changed] != SCATTERED.pad, True)


def test_ordinary_ids_in_one_range_give_the_masks_of_the_table() -> None:
    plain = SpecialIds.of(100)
    batch = rows_of(plain)
    expected = MaskedLanguageModelConfig().build(100).mask_rows(batch)
    by_table = SpecialIds.of(100)
    by_table.__dict__["_is_one_range"] = False
    found = MaskedLanguageModelConfig().build(by_table).mask_rows(batch)
    assert plain.ordinary_ids.tolist() == list(range(4, 99))
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_array_equal(found.labels, expected.labels)


def test_an_id_beyond_the_vocabulary_is_refused_not_one_beyond_the_mask() -> None:
    batch = rows_of(SCATTERED)
    batch.rows[3, 7] = 100
    with pytest.raises(ValueError, match=r"row 3 .* holds the id 100, .* ends at 99"):
        MaskedLanguageModelConfig().build(SCATTERED).mask_rows(batch)


def test_words_start_by_the_marks_of_the_model() -> None:
    byte_level = ["Ġthe", "###", "ing", "Ċ"]
    assert word_starts_of(byte_level, "BPE").tolist() == [True, False, False, True]
    assert word_starts_of(["the", "##ing", "Ġ"], "WordPiece").tolist() == [True, False, True]
    assert word_starts_of(["▁the", "ing"], "Unigram").tolist() == [True, False]
    assert word_starts_of(["the", "oven"], "WordLevel").tolist() == [True, True]
    with pytest.raises(ValueError, match="do not show where words start"):
        word_starts_of(["the", "ing"], "BPE")
