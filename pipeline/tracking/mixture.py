"""What share of the training rows comes from each source, from the record of a run."""

import math
from collections.abc import Mapping
from typing import Any

BY_ROWS = "by rows"
"""The record of a run without weights."""
TRAIN = "train/"
"""What the names of sources of training rows start with in a record."""


def describe_mixture(profile: Mapping[str, Any]) -> str | None:
    """Every source with its share of the rows that are drawn, and with the weight that makes it.

    `profile` is that of a data set (`pipeline.tracking.lineage`). None where it has no weights, or
    what cannot be weights: it may be a damaged record.
    """
    given, sources = profile.get("weights"), profile.get("sources")
    weights: dict[str, Any] = {}
    if isinstance(given, dict):
        weights = given
    elif given == BY_ROWS and isinstance(sources, dict):
        weights = {
            str(name).removeprefix(TRAIN): counts.get("rows")
            for name, counts in sources.items()
            if str(name).startswith(TRAIN) and isinstance(counts, dict)
        }
    if not all(_is_weight(weight) for weight in weights.values()):
        return None
    total = math.fsum(weights.values())
    if not 0 < total < math.inf:
        return None
    shares = (
        f"{name} {100 * weight / total:.3g} %" + f" (weight {weight:.6g})" * (given != BY_ROWS)
        for name, weight in weights.items()
    )
    return ", ".join(shares) + f" ({BY_ROWS})" * (given == BY_ROWS)


def _is_weight(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value <= 1e300
