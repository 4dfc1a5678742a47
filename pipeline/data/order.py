"""The order of training rows: the k-th row is a pure function of (row counts, weights, seed, k).

It does not depend on ranks, workers or batches. Three steps, each in its own function: `interleave`
maps position k to a source and to an index in the rows of that source; dividing the index by the
source's row count gives the pass (epoch) of the source; `PassOrder` permutes the rows of one pass.

A pass is permuted on two levels so that a node reads a window of shards at a time: a keyed
permutation orders the blocks of the source, and the rows are permuted inside windows of
consecutive blocks of that order (about `window_rows` rows).

All permutations are the stable argsort of raw Philox4x64-10 output (Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3"). Raw output of a numpy bit generator never changes between
numpy versions; the output of its `Generator.permutation` may.
"""

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from configs.load import ConfigError
from data_prep.dataset.manifest import Manifest
from pipeline.data.config import DataConfig
from pipeline.data.interleave import interleave, rows_per_source

WINDOW_ROWS = 1 << 18
"""Rows of a shuffle window, which are permuted together: 256 MB of uint16 rows of 512 tokens."""

WEIGHT_TOTAL = 1 << 20
"""Mixture weights are rounded to this many parts: a weight is exact to one in a million."""

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class SourceSize:
    """The size of a source: `rows` in blocks of `block_rows` (the last may be shorter)."""

    name: str
    rows: int
    block_rows: int


@dataclass(frozen=True)
class RowAddress:
    """Where rows are: three int64 arrays of equal length; `source` indexes `RowOrder.sources`."""

    source: Int64
    passes: Int64
    row: Int64


@dataclass(frozen=True)
class Mixture:
    """How the sources are mixed from position `start_row` of the stream on."""

    start_row: int
    shares: tuple[int, ...]
    """One for each source; their sum may be anything."""


@dataclass(frozen=True)
class RowOrder:
    """The endless stream of training rows; every mixture continues where the last one ended."""

    sources: tuple[SourceSize, ...]
    mixtures: tuple[Mixture, ...]
    seed: int
    window_rows: int = WINDOW_ROWS
    """Rows that are permuted together; a different number gives a different order."""

    def rows_at(self, positions: Int64) -> RowAddress:
        """The addresses of the rows at `positions` [n] of the stream.

        Cheapest for thousands of positions that follow each other: a block permutation is cached
        per (source, pass) and a row permutation per window.
        """
        source = np.empty_like(positions)
        index = np.empty_like(positions)
        taken = np.zeros(len(self.sources), dtype=np.int64)  # rows of each source before a mixture
        ends = [mixture.start_row for mixture in self.mixtures[1:]]
        for mixture, end in itertools.zip_longest(self.mixtures, ends):
            mine = positions >= mixture.start_row
            if end is not None:
                mine &= positions < end
            source[mine], local = interleave(positions[mine] - mixture.start_row, mixture.shares)
            index[mine] = local + taken[source[mine]]
            if end is not None:
                taken += rows_per_source(end - mixture.start_row, mixture.shares)
        return self._addresses(source, index)

    def blocks_between(self, start: int, end: int) -> dict[str, set[int]]:
        """The blocks of each source that hold the rows at positions [start, end).

        Rounded up to whole windows, since the rows of a window are drawn from all of its blocks.
        """
        blocks: dict[str, set[int]] = {}
        taken = np.zeros(len(self.sources), dtype=np.int64)
        ends = [*(mixture.start_row for mixture in self.mixtures[1:]), end]
        for mixture, mixture_end in zip(self.mixtures, ends, strict=True):
            first, last = max(start, mixture.start_row), min(end, mixture_end)
            if first < last:
                low = taken + rows_per_source(first - mixture.start_row, mixture.shares)
                high = taken + rows_per_source(last - mixture.start_row, mixture.shares)
                for size, here, there in zip(self.sources, low, high, strict=True):
                    if here < there:
                        found = self._source_blocks(size, int(here), int(there))
                        blocks.setdefault(size.name, set()).update(found)
            taken = taken + rows_per_source(mixture_end - mixture.start_row, mixture.shares)
        return blocks

    def _source_blocks(self, size: SourceSize, start: int, end: int) -> Iterator[int]:
        """The blocks of the rows [start, end) of a source, counted over all its passes."""
        for pass_number in range(start // size.rows, -(-end // size.rows)):
            first = max(start - pass_number * size.rows, 0)
            last = min(end - pass_number * size.rows, size.rows)
            yield from self._pass_order(size, pass_number).blocks_between(first, last)

    def _pass_order(self, size: SourceSize, pass_number: int) -> "PassOrder":
        return _pass_order(size, self.seed, pass_number, self.window_rows)

    def _addresses(self, source: Int64, index: Int64) -> RowAddress:
        passes = np.empty_like(index)
        row = np.empty_like(index)
        for number, size in enumerate(self.sources):
            mine = source == number
            if not mine.any():
                continue
            passes[mine], offset = np.divmod(index[mine], size.rows)
            row[mine] = self._rows_of(size, passes[mine], offset)
        return RowAddress(source, passes, row)

    def _rows_of(self, size: SourceSize, passes: Int64, offset: Int64) -> Int64:
        row = np.empty_like(offset)
        for pass_number in np.unique(passes):
            mine = passes == pass_number
            row[mine] = self._pass_order(size, int(pass_number)).rows_at(offset[mine])
        return row


def train_sources(
    manifest: Manifest, unit: Literal["block", "shard"] = "block"
) -> tuple[SourceSize, ...]:
    """The sizes of the training sources, sorted by name; `unit` is what the order calls a block.

    Raises ConfigError for shards of different sizes where the unit is a shard.
    """
    sizes = []
    for name, source in sorted(manifest.splits["train"].items()):
        shard_rows = [shard.rows for shard in source.shards]
        if unit == "block" or not shard_rows:
            sizes.append(SourceSize(name, source.rows, source.block_rows))
        elif len(set(shard_rows[:-1])) > 1 or shard_rows[-1] > shard_rows[0]:
            raise ConfigError(
                f"data.shuffle_unit shard: the shards of {name} have different numbers of rows"
            )
        else:
            sizes.append(SourceSize(name, source.rows, shard_rows[0]))
    return tuple(sizes)


def build_order(
    sources: Sequence[SourceSize],
    segments: Sequence[tuple[int, Mapping[str, float] | None]],
    seed: int,
    window_rows: int = WINDOW_ROWS,
) -> RowOrder:
    """The order of `sources`; `segments` are (first position, weights), in ascending order.

    Weights None: by row counts, so that one epoch takes every source once. Raises ConfigError for
    weights of unknown sources, sources without a weight, negative weights.
    """
    mixtures = tuple(
        Mixture(start, mixture_shares(sources, weights)) for start, weights in segments
    )
    starts = [mixture.start_row for mixture in mixtures]
    assert starts[0] == 0, "the first mixture starts with the stream"
    assert starts == sorted(set(starts)), f"mixtures that do not follow each other: {starts}"
    return RowOrder(tuple(sources), mixtures, seed, window_rows)


def mixture_weights(data: DataConfig, sources: Sequence[SourceSize]) -> dict[str, float] | None:
    """The weight of every source as the config gives it or its exponent makes it; None: by rows."""
    if data.sampling_exponent is None:
        return data.weights
    # Rounded, so that machines whose powers differ in the last bit draw the same rows.
    return {size.name: float(f"{size.rows**data.sampling_exponent:.9g}") for size in sources}


def check_mixture(data: DataConfig, manifest: Manifest) -> None:
    """Raises ConfigError for weights that do not fit the sources of the data set."""
    sources = train_sources(manifest)
    mixture_shares(sources, mixture_weights(data, sources))


def mixture_shares(
    sources: Sequence[SourceSize], weights: Mapping[str, float] | None
) -> tuple[int, ...]:
    """Integer shares of `sources`, in their order; ConfigError for weights that do not match."""
    names = [size.name for size in sources]
    if weights is None:
        weights = {size.name: float(size.rows) for size in sources}
    unknown = sorted(set(weights) - set(names))
    missing = sorted(set(names) - set(weights))
    if unknown or missing:
        found = [f"unknown sources {unknown}"] if unknown else []
        found += [f"sources without a weight {missing}"] if missing else []
        raise ConfigError(
            f"data.weights: {', '.join(found)}; the data set has {sorted(names)} "
            "(give a source the weight 0 to leave it out)"
        )
    bad = {name: weight for name, weight in weights.items() if not 0 <= weight < float("inf")}
    if bad or sum(weights.values()) <= 0:
        raise ConfigError(f"data.weights: must be >= 0 and not all 0, but {bad or dict(weights)}")
    empty = [size.name for size in sources if size.rows == 0 and weights[size.name] > 0]
    if empty:
        raise ConfigError(f"data.weights: the sources {empty} have no training rows")
    total = sum(weights.values())
    return tuple(
        max(1, round(weights[name] / total * WEIGHT_TOTAL)) if weights[name] else 0
        for name in names
    )


@lru_cache(maxsize=16)
def _pass_order(size: SourceSize, seed: int, pass_number: int, window_rows: int) -> "PassOrder":
    return PassOrder(size, seed, pass_number, window_rows)


class PassOrder:
    """The order of the rows of one source in one pass over it."""

    def __init__(self, size: SourceSize, seed: int, pass_number: int, window_rows: int) -> None:
        self._size = size
        self._key = (seed, size.name, pass_number)
        num_blocks = -(-size.rows // size.block_rows)
        self._blocks = permutation(num_blocks, *self._key, "blocks")
        rows = np.full(num_blocks, size.block_rows, dtype=np.int64)
        rows[self._blocks == num_blocks - 1] = size.rows - (num_blocks - 1) * size.block_rows
        self._window_blocks = max(1, window_rows // size.block_rows)
        edges = np.concatenate([[0], np.cumsum(rows)])[:: self._window_blocks]
        self._edges = edges if edges[-1] == size.rows else np.append(edges, size.rows)
        self._window = lru_cache(maxsize=4)(self._order_window)

    def rows_at(self, offset: Int64) -> Int64:
        """The row numbers at `offset` [n] of this pass, 0 <= offset < rows."""
        window = np.searchsorted(self._edges, offset, side="right") - 1
        row = np.empty_like(offset)
        for number in np.unique(window):
            mine = window == number
            row[mine] = self._window(int(number))[offset[mine] - self._edges[number]]
        return row

    def blocks_between(self, start: int, end: int) -> Iterator[int]:
        """The blocks of all windows that the offsets [start, end) of this pass lie in."""
        first, last = np.searchsorted(self._edges, [start, end - 1], side="right") - 1
        for block in self._blocks[first * self._window_blocks : (last + 1) * self._window_blocks]:
            yield int(block)

    def _order_window(self, number: int) -> Int64:
        """The row numbers of one window in training order: int64 [rows of the window]."""
        start = number * self._window_blocks
        blocks = np.sort(self._blocks[start : start + self._window_blocks])
        rows = (blocks[:, None] * self._size.block_rows + np.arange(self._size.block_rows)).ravel()
        rows = rows[rows < self._size.rows]
        return rows[permutation(len(rows), *self._key, "window", number)]


def permutation(length: int, *key: int | str) -> Int64:
    """A permutation of range(length) that depends on `key` alone."""
    raw = np.random.Philox(key=_philox_key(key)).random_raw(length)
    return np.argsort(raw, kind="stable").astype(np.int64)


def uniform(length: int, *key: int | str) -> NDArray[np.float64]:
    """Numbers in [0, 1) that depend on `key` alone; a longer sequence starts with the shorter."""
    raw = np.random.Philox(key=_philox_key(key)).random_raw(length)
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _philox_key(key: tuple[int | str, ...]) -> NDArray[np.uint64]:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.frombuffer(digest, dtype=np.uint64)
