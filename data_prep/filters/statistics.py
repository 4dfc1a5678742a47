"""How the values that filters measure are distributed over the documents of a part, as histograms
of fixed bins, which can be added up.

A filter that is costly does not measure what an earlier filter drops, but one in `SAMPLED_WEIGHT`
of these texts, by the hash of the text; each stands for that many. So the counts do not depend on
parts. A value that is sure to be inside the limit may be counted as 0.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
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

    def add(self, verdicts: Verdicts) -> None:
        """Adds a batch."""
        for measured in verdicts.measured:
            self._pending.setdefault(measured.reason, []).append(measured)
        self._languages.update(verdicts.languages)
        self._num_pending += len(verdicts.reasons)
        if self._num_pending >= _FLUSH_TEXTS:
            self._flush()

    def record(self) -> dict[str, Any]:
        """The counts as JSON values: ``filters``, in their order, and ``languages``."""
        self._flush()
        return {
            "filters": [[reason, h.record()] for reason, h in self._histograms.items()],
            "languages": [[code, count] for code, count in self._languages.most_common()],
        }

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
        self._bins: Counter[int] = Counter()
        self._limits: Counter[float] = Counter()
        self._dropped = self._without = 0

    def add(self, batches: Iterable[Measured]) -> None:
        """Adds what the filter measured of some batches."""
        columns: list[list[Any]] = [[], [], []]
        for _, _, values, limits, weights in batches:
            columns[0].append(np.asarray(values, dtype=np.float64))
            columns[1].append(np.broadcast_to(np.asarray(limits, dtype=np.float64), values.shape))
            columns[2].append(np.ones(len(values), np.int64) if weights is None else weights)
        values, limits, weights = (np.concatenate(column) for column in columns)
        self._without += int(weights[np.isnan(values)].sum())
        held = np.flatnonzero((weights > 0) & ~np.isnan(values))
        values, limits, weights = values[held], limits[held], weights[held]
        dropped = values < limits if self._is_least else values > limits
        self._dropped += int(weights[dropped].sum())
        _count(self._bins, bins_of(values), weights)
        given = ~np.isnan(limits)
        _count(self._limits, limits[given], weights[given])

    def record(self) -> dict[str, Any]:
        """The counts as JSON values."""
        return {
            "limit_is": "least" if self._is_least else "greatest",
            "dropped_alone": [self._dropped],  # in lists, as what the log adds up is not
            "without_value": [self._without],
            "limits": [[limit, count] for limit, count in sorted(self._limits.items())],
            "bins": [[number, count] for number, count in sorted(self._bins.items())],
        }


def _count(counter: Counter[Any], values: Values, weights: Values) -> None:
    unique, inverse = np.unique(values, return_inverse=True)
    sums = np.bincount(inverse, weights, minlength=len(unique)).astype(np.int64)
    for value, count in zip(unique.tolist(), sums.tolist(), strict=True):
        counter[value] += count


def merged(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of records of `FilterStatistics`: ``filters`` by reason, ``languages`` by code."""
    filters: dict[str, dict[str, Any]] = {}
    languages: Counter[str] = Counter()
    for record in records:
        languages.update(dict(record["languages"]))
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
    }
