"""Values as text."""

import json
import math
from typing import Any

NONE = "–"
_MAX_CHARACTERS = 400


def shown(value: Any) -> str:
    """A parameter as text; long ones are cut."""
    if value is None:
        return NONE
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]} ..."


def number(value: float | None, digits: int = 4) -> str:
    """A number with that many significant digits, more where it is large."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if abs(value) >= 10 ** (digits - 1) or (value == int(value) and abs(value) < 1e15):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}" if abs(value) >= 1e-3 else f"{value:.2e}"
