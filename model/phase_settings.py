"""Settings of a model that may differ between the phases of a run. Imports no torch.

They are the fields marked with `PerPhase`: they shape no weight, so the same weights and moments
train on with other values. A module that keeps a copy of one has a method `follow`.
"""

from typing import Protocol, runtime_checkable

from configs.differences import Difference, differences
from model.config import ModelConfig
from model.options import PerPhase


@runtime_checkable
class FollowsConfig(Protocol):
    """A module that keeps settings of the phase."""

    def follow(self, config: ModelConfig) -> None:
        """Takes over the settings of `config` that may differ between phases."""


def fixed_differences(before: ModelConfig, now: ModelConfig) -> list[Difference]:
    """What differs between the models of two phases, but must not."""
    found = [d for d in differences(before, now) if not d.has_mark(PerPhase)]
    if before.positions.type == now.positions.type != "learned":
        # Only learned positions have a weight for each token of the longest row.
        found = [d for d in found if d.path != "max_row_tokens"]
    return found
