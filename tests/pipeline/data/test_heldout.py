"""Held-out metrics where the loss has no perplexity, or no token was masked."""

import math

import numpy as np
import pytest

from model.objectives import MaskedRows
from pipeline.data.heldout import HeldoutRows, HeldoutScore


def rows_of(*sources: str) -> HeldoutRows:
    nothing = np.zeros((1, 1), dtype=np.int64)
    return HeldoutRows({name: MaskedRows(nothing, nothing, nothing) for name in sources}, math.nan)


@pytest.mark.parametrize(
    ("loss", "perplexity"),
    [
        (0.0, 1.0),
        (709.0, math.exp(709.0)),
        (710.0, math.inf),
        (1e300, math.inf),
        (math.inf, math.inf),
        (math.nan, math.nan),
    ],
)
def test_every_loss_has_a_perplexity(loss: float, perplexity: float) -> None:
    rows = rows_of("a")
    values = rows.metrics({"a": HeldoutScore(loss * 2, 2, 1)})
    assert values["heldout_loss"] == pytest.approx(loss, nan_ok=True)
    assert values["heldout_perplexity"] == pytest.approx(perplexity, nan_ok=True)
    assert "a " in rows.summary_line(values)


def test_a_source_without_masked_tokens_has_no_loss() -> None:
    rows = rows_of("a", "b")
    values = rows.metrics({"a": HeldoutScore(6.0, 3, 1), "b": HeldoutScore(0.0, 0, 0)})
    assert values["heldout_loss"] == 2.0
    assert math.isnan(values["heldout_loss/b"])
    assert math.isnan(values["heldout_accuracy/b"])
