"""Weights that arrive while the model runs: before each part the model waits for those of the part.

Of data-parallel ranks each updates a share of the weights and gets the others in messages. The
model says in its eager code which part runs next, so that compiled layers, layers that are computed
again and graphs are as without: nothing waits inside them.
"""

from typing import Protocol

from torch import nn


class Weights(Protocol):
    """Says when weights may be read."""

    def ready(self, *parts: nn.Module) -> None:
        """Returns when all weights of `parts` may be read; on a GPU by what is launched next,
        without a wait of the host."""


class PresentWeights:
    """Weights that are always there."""

    def ready(self, *parts: nn.Module) -> None:
        """See `Weights`."""
