"""All objectives: the same masks in any batch, and the distribution that each promises."""

import hashlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter

from configs.load import ConfigError
from model.objectives import ObjectiveConfig, RowsToMask
from model.objectives.mask_rate import LinearMaskRate
from model.objectives.masking import MaskedRows, MaskingConfig
from model.objectives.mlm import MaskedLanguageModelConfig
from model.objectives.published import PublishedMaskingConfig
from model.objectives.span import SpanMaskingConfig
from model.objectives.static import StaticMaskingConfig
from model.objectives.whole_word import WholeWordMaskingConfig
from model.objectives.words import number_words, word_starts_of

VOCAB_SIZE = 1000
MASK = VOCAB_SIZE - 1
WORD_STARTS = np.arange(VOCAB_SIZE) % 3 == 0
CONFIGS: dict[str, MaskingConfig] = {
    "mlm": MaskedLanguageModelConfig(),
    "schedule": MaskedLanguageModelConfig(mask_rate=LinearMaskRate(start=0.3, end=0.1)),
    "static": StaticMaskingConfig(num_maskings=3),
    "whole_word": WholeWordMaskingConfig(),
    "span": SpanMaskingConfig(),
    "published": PublishedMaskingConfig(),
    "bernoulli": PublishedMaskingConfig(choice="bernoulli", special_tokens=False),
}

HASHES = {
    "mlm": "01ff6bde9aa3d3b5",
    "schedule": "f7999fda59f850d2",
    "static": "5b3cb2dcee350ebd",
    "whole_word": "563fbc5ceb5f8979",
    "span": "96879f52803e1dd8",
    "published": "8a7b6f207ea6b614",
    "bernoulli": "9b937ca5380c09d4",
}
"""Of the masks as they were first published, by name of the config."""


def some_rows(num_rows: int, row_tokens: int = 128) -> NDArray[np.uint16]:
    rows = np.random.default_rng(5).integers(4, MASK, (num_rows, row_tokens)).astype(np.uint16)
    rows[:, 0], rows[:, 60], rows[:, -1] = 0, 2, 2
    rows[::4, 100:] = 1
    return rows


def mask(
    config: MaskingConfig,
    rows: NDArray[np.uint16],
    numbers: NDArray[np.int64] | None = None,
    **more: Any,
) -> MaskedRows:
    numbers = np.arange(len(rows)) if numbers is None else numbers
    arguments = {"seed": 1, "passes": np.zeros(len(rows), int), **more}
    objective = config.build(VOCAB_SIZE, WORD_STARTS)
    result = objective.mask_rows(RowsToMask(rows, row_numbers=numbers, **arguments))
    assert result.positions.shape == (len(rows), config.num_slots(rows.shape[1]))
    return result


def chosen_of(result: MaskedRows) -> NDArray[np.bool_]:
    """[n, R] bool: which tokens were chosen."""
    chosen = np.zeros(result.tokens.shape, bool)
    row = np.broadcast_to(np.arange(len(chosen))[:, None], result.positions.shape)
    used = result.labels >= 0
    chosen[row[used], result.positions[used]] = True
    assert chosen.sum() == used.sum(), "a position was chosen twice"
    return chosen


@pytest.mark.parametrize("name", CONFIGS)
def test_masks_do_not_depend_on_the_batch_and_labels_are_the_original(name: str) -> None:
    rows = some_rows(40)
    whole = mask(CONFIGS[name], rows)
    order = np.random.default_rng(0).permutation(40)
    for part in (order[:1], order[1:15], order[15:]):
        some = mask(CONFIGS[name], rows[part], part)
        for field in ("tokens", "positions", "labels"):
            np.testing.assert_array_equal(getattr(some, field), getattr(whole, field)[part])
    chosen = chosen_of(whole)
    np.testing.assert_array_equal(whole.tokens[~chosen], rows[~chosen])
    used = whole.labels >= 0
    original = np.take_along_axis(rows, whole.positions, axis=1)
    np.testing.assert_array_equal(whole.labels[used], original[used])
    if name != "published":
        assert ((rows[chosen] > 3) & (rows[chosen] < MASK)).all()
    drawn = whole.tokens[chosen & (whole.tokens != rows)]
    assert ((drawn > 3) & (drawn <= MASK)).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_share_chosen_and_its_fate_are_as_configured(name: str) -> None:
    rows = some_rows(6000)
    result = mask(CONFIGS[name], rows)
    chosen = chosen_of(result)
    ordinary = (rows > 3) & (rows < MASK)
    candidates = rows != 1 if name == "published" else ordinary
    rate = 0.3 if name == "schedule" else 0.15
    assert chosen.sum() / candidates.sum() == pytest.approx(rate, rel=0.02)
    before, after = rows[chosen & ordinary], result.tokens[chosen & ordinary]
    tolerance = 5 * 0.4 / np.sqrt(len(after)) * (4 if name == "span" else 1)
    assert (after == MASK).mean() == pytest.approx(0.8, abs=tolerance)
    assert (after == before).mean() == pytest.approx(0.1, abs=tolerance)
    by_position = chosen[1::4][:, 1:60].mean(axis=0)
    edge = 12 if name == "span" else 0  # spans do not cross special tokens: edges get fewer
    inner = by_position[edge : len(by_position) - edge]
    assert inner.std() < (0.02 if name != "schedule" else 0.03)


def test_a_schedule_follows_progress_by_row() -> None:
    rows = some_rows(3)[1:3]
    config = CONFIGS["schedule"]
    result = mask(config, rows, progress=np.array([0.0, 1.0]))
    counts = (result.labels >= 0).sum(axis=1)
    assert counts.tolist() == [round(0.3 * 125 + 0.01), round(0.1 * 125 + 0.01)]


def test_static_masks_return_after_their_number_of_passes() -> None:
    rows = some_rows(5)
    by_pass = [mask(CONFIGS["static"], rows, passes=np.full(5, p)).positions for p in range(6)]
    for first in range(3):
        np.testing.assert_array_equal(by_pass[first], by_pass[first + 3])
        assert not np.array_equal(by_pass[first], by_pass[(first + 1) % 3])


def test_words_are_chosen_whole_and_alike() -> None:
    rows = some_rows(3000, 512)
    result = mask(CONFIGS["whole_word"], rows)
    chosen = chosen_of(result)
    ordinary = (rows > 3) & (rows < MASK)
    word_of = number_words(rows, ordinary, WORD_STARTS)
    key = np.arange(len(rows))[:, None] * 1000 + word_of
    _, index = np.unique(key[ordinary], return_inverse=True)
    sizes, taken = np.bincount(index), np.bincount(index, weights=chosen[ordinary])
    assert ((taken == 0) | (taken == sizes)).all()
    for size in (1, 2, 3, 4, 5):
        share = (taken > 0)[sizes == size].mean()
        assert share == pytest.approx(0.15, abs=0.008), f"words of {size} tokens"


def test_spans_have_geometric_lengths_and_start_with_words() -> None:
    config = SpanMaskingConfig(mask_rate=0.02)  # spans seldom meet: their lengths are the drawn
    rows = np.random.default_rng(1).integers(4, MASK, (400, 4096)).astype(np.uint16)
    rows -= rows % 3  # every token is a word
    rows = np.maximum(rows, 6)
    rows[:, 0] = 0
    chosen = chosen_of(mask(config, rows))
    padded = np.pad(chosen, ((0, 0), (1, 1))).astype(int)
    starts, ends = np.argwhere(np.diff(padded) == 1), np.argwhere(np.diff(padded) == -1)
    lengths = (ends - starts)[:, 1]
    probabilities = config.length_probabilities()
    assert probabilities @ np.arange(1, 11) == pytest.approx(3.797, abs=0.01)  # SpanBERT's 3.8
    # Each row's last span is cut at the budget, which moves the mean down a little.
    assert lengths.mean() == pytest.approx(3.797, rel=0.03)
    assert lengths.max() <= 20
    rows = some_rows(500)
    result = mask(CONFIGS["span"], rows)
    chosen = chosen_of(result)
    is_start = chosen[:, 1:] & ~chosen[:, :-1]
    assert WORD_STARTS[rows[:, 1:][is_start]].mean() > 0.9  # all but those at special tokens


def test_a_span_has_one_fate() -> None:
    rows = np.full((2000, 128), 300, np.uint16)
    rows[:, 0] = 0
    result = mask(SpanMaskingConfig(mask_rate=0.04), rows)
    chosen = chosen_of(result)
    pairs = chosen[:, 1:] & chosen[:, :-1]
    same = ((result.tokens == MASK)[:, 1:] == (result.tokens == MASK)[:, :-1])[pairs]
    assert same.mean() > 0.97  # two spans side by side may differ


def test_published_masks_choose_special_tokens_too() -> None:
    rows = some_rows(4000)
    chosen = chosen_of(mask(CONFIGS["published"], rows))
    assert chosen[:, 0].mean() == pytest.approx(0.15, abs=0.03)
    assert not chosen[rows == 1].any()
    counts = chosen[1::4].sum(axis=1)
    assert set(counts.tolist()) == {19, 20}  # 0.15 x 128 = 19.2
    assert (counts == 20).mean() == pytest.approx(0.2, abs=0.04)
    by_one = chosen_of(mask(CONFIGS["bernoulli"], rows))[1::4].sum(axis=1)
    assert by_one.var() == pytest.approx(0.15 * 0.85 * 125, rel=0.15)


def test_short_rows_and_high_rates_leave_no_slot_unfilled() -> None:
    config = WholeWordMaskingConfig(mask_rate=0.9)
    rows = some_rows(8)[:, :12]
    assert config.num_slots(12) == 12
    assert chosen_of(mask(config, rows)).sum(axis=1).max() <= 12


@pytest.mark.parametrize("name", CONFIGS)
def test_masks_never_change_between_versions(name: str) -> None:
    rows = some_rows(16)
    numbers = np.arange(16) * 977 + 5
    result = mask(
        CONFIGS[name],
        rows,
        numbers,
        seed=7,
        passes=np.arange(16) % 5,
        sources=np.arange(16) % 3,
        progress=np.linspace(0, 1, 16),
    )
    parts = (result.tokens, result.positions, result.labels)
    content = b"".join(np.ascontiguousarray(part, dtype="<i8").tobytes() for part in parts)
    assert hashlib.sha256(content).hexdigest()[:16] == HASHES[name]


def test_every_objective_is_in_the_union() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(ObjectiveConfig)
    for config in CONFIGS.values():
        assert adapter.validate_python(config.model_dump()) == config


def test_words_need_a_vocabulary() -> None:
    for config in (WholeWordMaskingConfig(), SpanMaskingConfig()):
        with pytest.raises(ConfigError, match="which of the 1000 tokens start a word"):
            config.build(VOCAB_SIZE)


def test_word_starts_of_both_kinds_of_vocabulary() -> None:
    byte_level = word_starts_of(["<s>", "Ġthe", "ing", "Ċ", "a"])
    assert byte_level.tolist() == [False, True, False, True, False]
    word_piece = word_starts_of(["[CLS]", "the", "##ing", "a", "##"])
    assert word_piece.tolist() == [True, True, False, True, False]
