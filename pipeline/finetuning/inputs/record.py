"""What the readers of all formats give: records with the values of a task's fields."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Reason = Literal["syntax", "missing", "unknown_label", "answer_offset", "too_long", "value"]
"""Why a record is bad.

syntax: no JSON, not UTF-8, a number of columns that differs from the header's; missing: a field
without a value; unknown_label; answer_offset: an answer that does not stand at its character;
too_long: a question that leaves no space for its context; value: anything else that does not fit.
"""


class BadRecord(ValueError):
    """A record that no example can be made of."""

    def __init__(self, reason: Reason, message: str, value: str | None = None) -> None:
        """`value` is the unknown label, of which the numbers are reported."""
        super().__init__(message)
        self.reason: Reason = reason
        self.value = value


@dataclass(frozen=True)
class Record:
    """One record of a file."""

    place: str
    """Where it stands in the file, "line 3" for example."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """By the name of the task's field; what the record does not have is not in it."""
    error: BadRecord | None = None
    """Why it cannot be read."""
