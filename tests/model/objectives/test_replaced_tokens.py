"""The rows of replaced-token detection: masks of the chosen objective, and keys for the draws."""

import numpy as np

from model.objectives import MaskedLanguageModelConfig, ReplacedTokensConfig, RowsToMask
from model.objectives.corruption import Corruption

VOCAB_SIZE = 1000


def some_rows(num_rows: int) -> RowsToMask:
    rows = np.random.default_rng(5).integers(4, VOCAB_SIZE - 1, (num_rows, 64)).astype(np.uint16)
    return RowsToMask(rows, 1, np.arange(num_rows) % 2, np.arange(num_rows) // 2)


def test_masks_are_those_of_its_masking_objective() -> None:
    masked = ReplacedTokensConfig().build(VOCAB_SIZE).mask_rows(some_rows(8))
    corruption = Corruption(mask=1.0, random=0.0)
    alone = MaskedLanguageModelConfig(corruption=corruption).build(VOCAB_SIZE)
    expected = alone.mask_rows(some_rows(8))
    for name in ("tokens", "positions", "labels"):
        assert np.array_equal(getattr(masked, name), getattr(expected, name))
    assert (masked.tokens == VOCAB_SIZE - 1).sum() == (masked.labels >= 0).sum() > 0
    assert expected.sample_keys is None


def test_each_row_and_pass_has_its_own_key_in_any_batch() -> None:
    objective = ReplacedTokensConfig().build(VOCAB_SIZE)
    keys = objective.mask_rows(some_rows(8)).sample_keys
    assert keys is not None
    assert len(set(keys.tolist())) == 8
    fewer = objective.mask_rows(some_rows(3)).sample_keys
    assert fewer is not None
    assert np.array_equal(keys[:3], fewer)
