"""How the values that filters measure are distributed over the documents of a part, as histograms
of fixed bins, which can be added up.

A filter that is costly does not measure what an earlier filter drops, but one in `SAMPLED_WEIGHT`
of these texts, by the hash of the text; each stands for that many. So the counts do not depend on
parts. A value that is sure to be inside the limit may be counted as 0.
"""

import base64
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.filters.verdicts import F64, Measured, Values, Verdicts

_FLUSH_TEXTS = 8192
_SHIFT = 19
"""Lowest bits of a 32-bit float that a bin leaves out: 16 bins between powers of two."""


def bins_of(values: F64) -> Values:
    """The bin of each value: the highest 13 bits of it as a 32-bit float."""
    return (values.astype(np.float32) + np.float32(0)).view(np.uint32) >> np.uint32(_SHIFT)


def least_value(bin_number: int) -> float:
    """The value of the bin's values that is nearest to 0."""
    return float(np.uint32(bin_number << _SHIFT).view(np.float32))


def next_value(bin_number: int) -> float:
    """The value at which the bin that is next farther from 0 starts."""
    return least_value(bin_number + 1)


class FilterStatistics:
    """The values of all filters, over the documents of a part."""

    def __init__(self) -> None:
        self._pending: dict[str, list[Measured]] = {}
        self._num_pending = 0
        self._histograms: dict[str, _Histogram] = {}
        self._languages: Counter[str] = Counter()
        self._kept_languages: Counter[str] = Counter()

    def add(self, verdicts: Verdicts) -> None:
        """Adds a batch that all filters have judged."""
        for measured in verdicts.measured:
            self._pending.setdefault(measured.reason, []).append(measured)
        self._languages.update(verdicts.languages)
        kept = np.flatnonzero(verdicts.undecided).tolist()
        self._kept_languages.update(verdicts.text_languages[number] for number in kept)
        self._num_pending += len(verdicts.codes)
        if self._num_pending >= _FLUSH_TEXTS:
            self._flush()

    def record(self) -> str:
        """The counts as one text, which `merged` reads: ``filters``, in their order, and
        ``languages``, of all documents as detected and ``kept_languages``, as detected or as set.

        The records of all parts are in the memory of the process that runs the job. As JSON values
        these counts would take 150 KB of it for each part.
        """
        self._flush()
        counts = {
            "filters": [[reason, h.record()] for reason, h in self._histograms.items()],
            "languages": [[code, count] for code, count in self._languages.most_common()],
            "kept_languages": [[code, n] for code, n in self._kept_languages.most_common()],
        }
        return base64.b85encode(zlib.compress(json.dumps(counts).encode())).decode()

    def _flush(self) -> None:
        for reason, batches in self._pending.items():
            if reason not in self._histograms:
                self._histograms[reason] = _Histogram(batches[0].is_least)
            self._histograms[reason].add(batches)
        self._pending, self._num_pending = {}, 0


class _Histogram:
    """The values of one filter."""

    def __init__(self, is_least: bool) -> None:
        self._is_least = is_least
        self._bins = np.zeros(1 << (32 - _SHIFT), dtype=np.int64)
        self._limits: Counter[float] = Counter()
        self._dropped = self._without = 0

    def add(self, batches: Sequence[Measured]) -> None:
        """Adds what the filter measured of some batches."""
        values = np.concatenate([batch.values for batch in batches]).astype(np.float64)
        weights = _joined([batch.weights for batch in batches], len(values))
        limits = _joined_limits(batches)
        missing = np.isnan(values)
        if missing.any():
            self._without += _sum(missing, weights)
            present = ~missing
            values = values[present]
            weights = None if weights is None else weights[present]
            limits = limits if isinstance(limits, float) else limits[present]
        dropped = values < limits if self._is_least else values > limits
        self._dropped += _sum(dropped, weights)
        counts = np.bincount(bins_of(values), weights, minlength=len(self._bins))
        self._bins += counts.astype(np.int64)
        if isinstance(limits, float):
            self._limits[limits] += _sum(np.ones(len(values), dtype=bool), weights)
        else:
            for limit in np.unique(limits).tolist():
                self._limits[limit] += _sum(limits == limit, weights)

    def record(self) -> dict[str, Any]:
        """The counts as JSON values."""
        numbers = np.flatnonzero(self._bins)
        limits = [(limit, n) for limit, n in self._limits.items() if n and not np.isnan(limit)]
        return {
            "limit_is": "least" if self._is_least else "greatest",
            "dropped_alone": [self._dropped],  # in lists, as what the log adds up is not
            "without_value": [self._without],
            "limits": [[limit, count] for limit, count in sorted(limits)],
            "bins": np.stack([numbers, self._bins[numbers]], axis=1).tolist(),
        }


def _joined(weights: Sequence[Values | None], num_values: int) -> Values | None:
    """The weights of all batches; None if all are 1."""
    given = [batch for batch in weights if batch is not None]
    return np.concatenate(given) if given and num_values else None


def _joined_limits(batches: Sequence[Measured]) -> Any:
    """The limits of all batches: a float if there is only one."""
    if all(isinstance(batch.limits, int | float) for batch in batches):
        return float(batches[0].limits)
    return np.concatenate([np.broadcast_to(b.limits, b.values.shape) for b in batches])


def _sum(chosen: Any, weights: Values | None) -> int:
    return int(np.count_nonzero(chosen) if weights is None else weights[chosen].sum())


def merged(records: Iterable[str | Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of records of `FilterStatistics`: ``filters`` by reason; ``languages`` and
    ``kept_languages`` by code, the latter None where a record of an older version lacks it.

    Records of older versions are the counts as JSON values.
    """
    filters: dict[str, dict[str, Any]] = {}
    languages: Counter[str] = Counter()
    kept_languages: Counter[str] = Counter()
    knows_kept = True
    for packed in records:
        record = counts_in(packed) if isinstance(packed, str) else packed
        knows_kept &= "kept_languages" in record
        languages.update(dict(record["languages"]))
        kept_languages.update(dict(record.get("kept_languages", ())))
        for reason, of_part in record["filters"]:
            total = filters.setdefault(
                reason,
                {
                    "limit_is": of_part["limit_is"],
                    "documents": 0,
                    "dropped_alone": 0,
                    "without_value": 0,
                    "limits": Counter(),
                    "bins": Counter(),
                },
            )
            total["dropped_alone"] += of_part["dropped_alone"][0]
            total["without_value"] += of_part["without_value"][0]
            total["limits"].update(dict(of_part["limits"]))
            total["bins"].update(dict(of_part["bins"]))
    return {
        "filters": {
            reason: {
                **total,
                "documents": total["bins"].total(),
                "limits": sorted(total["limits"].items()),
                "bins": sorted(total["bins"].items()),
            }
            for reason, total in filters.items()
        },
        "languages": dict(languages.most_common()),
        "kept_languages": dict(kept_languages.most_common()) if knows_kept else None,
    }


def counts_in(record: str) -> dict[str, Any]:
    """The counts of a record of `FilterStatistics` as JSON values."""
    counts: dict[str, Any] = json.loads(zlib.decompress(base64.b85decode(record)))
    return counts
