"""Held-out loss with masks that never change, and the loss of a unigram model on the same tokens.

Every data-parallel rank evaluates its part of the rows; the training stream is not touched.
"""

import hashlib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from data_prep.dataset.manifest import Manifest
from model.config import MLM_HEAD
from model.objectives import MaskedRows, ObjectiveConfig, RowsToMask, SpecialIds
from pipeline.data.config import DataConfig
from pipeline.data.loader import build_objective, special_ids
from pipeline.data.shard_cache import row_reader

HELDOUT_SEED = 0
"""The seed of the masks of held-out rows: the same in all runs, so that they can be compared."""

LARGEST_EXPONENT = math.log(sys.float_info.max)


@dataclass(frozen=True)
class HeldoutScore:
    """Sums over masked held-out tokens, so that scores can be added before they are divided."""

    loss_sum: float
    masked_tokens: float
    correct: float

    @property
    def loss(self) -> float:
        """Nats per masked token; NaN without masked tokens."""
        return self.loss_sum / self.masked_tokens if self.masked_tokens else math.nan

    @property
    def perplexity(self) -> float:
        """exp(loss); inf where that is no double-precision number, for a loss above 709."""
        return math.exp(self.loss) if not self.loss > LARGEST_EXPONENT else math.inf

    @property
    def accuracy(self) -> float:
        """Share of masked tokens that are predicted correctly; NaN without masked tokens."""
        return self.correct / self.masked_tokens if self.masked_tokens else math.nan

    def __add__(self, other: "HeldoutScore") -> "HeldoutScore":
        return HeldoutScore(
            self.loss_sum + other.loss_sum,
            self.masked_tokens + other.masked_tokens,
            self.correct + other.correct,
        )


@dataclass(frozen=True)
class HeldoutRows:
    """The held-out rows of every source, masked."""

    sources: dict[str, MaskedRows]
    unigram_loss: float
    """Loss of the best unigram model of the held-out rows on their masked tokens, nats a token."""
    is_causal: bool = False
    """Whether the rows predict next tokens: all of these numbers are then of those."""
    head_weights: Mapping[str, float] = field(default_factory=lambda: {MLM_HEAD: 1.0})
    """The factor on the mean loss of each head in the training."""

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that decides which losses can be compared: rows, masks, weights of heads."""
        digest = hashlib.sha256(json.dumps(dict(self.head_weights), sort_keys=True).encode())
        for name, rows in self.sources.items():
            digest.update(f"{name} {rows.tokens.shape}".encode())
            for array in (rows.tokens, rows.positions, rows.labels, rows.sample_keys):
                if array is not None:
                    digest.update(np.ascontiguousarray(array, dtype=np.int64).data)
        return digest.hexdigest()

    def metrics(self, scores: Mapping[str, HeldoutScore]) -> dict[str, float]:
        """Losses, perplexities and accuracies, over all sources and for each."""
        if not scores:
            return {}
        total = sum(scores.values(), HeldoutScore(0.0, 0.0, 0.0))
        values = {
            "heldout_loss": total.loss,
            "heldout_perplexity": total.perplexity,
            "heldout_accuracy": total.accuracy,
            "heldout_unigram_loss": self.unigram_loss,
        }
        for name, score in scores.items():
            values[f"heldout_loss/{name}"] = score.loss
            values[f"heldout_accuracy/{name}"] = score.accuracy
        return values

    def summary_line(self, values: Mapping[str, float]) -> str:
        """The held-out metrics in one line."""
        if not values:
            return "held out: the data set has no held-out rows"
        each = "  ".join(f"{name} {values[f'heldout_loss/{name}']:.3f}" for name in self.sources)
        return (
            f"held out: loss {values['heldout_loss']:.3f} (unigram {self.unigram_loss:.3f})  "
            f"accuracy {values['heldout_accuracy']:.1%}  by source: {each}"
        )


def load_heldout(
    data: DataConfig, manifest: Manifest, objective_config: ObjectiveConfig, rows_per_source: int
) -> HeldoutRows:
    """The first `rows_per_source` held-out rows of every source of a data set, masked."""
    objective = build_objective(objective_config, data, manifest)
    reader = row_reader(data, manifest, "heldout")
    plain, masked = [], {}
    for number, (name, size) in enumerate(sorted(manifest.splits["heldout"].items())):
        numbers = np.arange(min(rows_per_source, size.rows))
        if not len(numbers):
            continue
        rows = reader.read(name, numbers)
        plain.append(rows)
        masked[name] = objective.mask_rows(
            RowsToMask(
                rows,
                seed=HELDOUT_SEED,
                passes=np.zeros_like(numbers),
                row_numbers=numbers,
                sources=np.full_like(numbers, number),
            )
        )
    if not masked:
        return HeldoutRows({}, float("nan"))
    labels = np.concatenate([rows.labels.ravel() for rows in masked.values()])
    labels = labels[labels >= 0]
    loss = math.nan
    if len(labels):
        loss = unigram_loss(np.concatenate(plain), labels, special_ids(manifest))
    return HeldoutRows(masked, loss, objective_config.IS_CAUSAL, objective_config.head_weights)


def unigram_loss(
    rows: NDArray[np.unsignedinteger], labels: NDArray[np.int64], special: SpecialIds
) -> float:
    """Mean of -ln p(label), p being the frequency of each ordinary token in `rows`.

    The frequencies are those of the scored rows, without special tokens that are never predicted:
    no unigram model fitted to different text does better on them, except by chance of which tokens
    are masked.
    """
    counts = np.bincount(rows.ravel(), minlength=special.vocab_size).astype(np.float64)
    is_predicted = np.bincount(labels, minlength=special.vocab_size) > 0
    counts[~special.is_ordinary & ~is_predicted] = 0
    return float(-np.log(counts[labels] / counts.sum()).mean())


def rank_slices(
    num_rows: int, micro_rows: int, dp_rank: int, dp_size: int
) -> list[tuple[slice, bool]]:
    """The slices of at most `micro_rows` rows that `dp_rank` evaluates, and whether each counts.

    All ranks get the same number, since a forward pass under ZeRO 3 is a collective; a rank with
    fewer computes the first slice of all again, without counting it.
    """
    parts = [slice(start, start + micro_rows) for start in range(0, num_rows, micro_rows)]
    mine = [(part, True) for part in parts[dp_rank::dp_size]]
    missing = -(-len(parts) // dp_size) - len(mine)
    return mine + [(parts[0], False)] * missing
