"""The order of training rows: the k-th row is a pure function of (row counts, weights, seed, k).

It knows nothing of ranks, workers or batches, so none of them can change it. Three steps, each in
its own function: `interleave` says which source position k belongs to and the how-manieth row of
that source it is; dividing by the source's row count gives the pass over the source; `PassOrder`
permutes the rows of one pass.

A pass is permuted on two levels so that a node reads a window of shards at a time: a keyed
permutation orders the blocks of the source, and the rows are permuted inside windows of
consecutive blocks of that order (about `WINDOW_ROWS` rows).

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

WINDOW_ROWS = 1 << 18
"""Rows that are permuted among each other: 256 MB of uint16 rows of 512 tokens."""

WEIGHT_TOTAL = 1 << 20
"""Mixture weights are rounded to this many parts: a weight is exact to one in a million."""

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class SourceSize:
    """What the order knows of a source: `rows` in blocks of `block_rows` (the last shorter)."""

    name: str
    rows: int
    block_rows: int


@dataclass(frozen=True)
class RowAddress:
    """Where rows are: three int64 arrays of one length. `source` indexes `RowOrder.sources`."""

    source: Int64
    passes: Int64
    row: Int64


@dataclass(frozen=True)
class Mixture:
    """How sources are mixed from position `start_row` of the stream on."""

    start_row: int
    shares: tuple[int, ...]
    """One a source; they need no common sum."""


@dataclass(frozen=True)
class RowOrder:
    """The endless stream of training rows of one or more mixtures, each going on from the last."""

    sources: tuple[SourceSize, ...]
    mixtures: tuple[Mixture, ...]
    seed: int

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
                taken += shared_out(end - mixture.start_row, mixture.shares)
        return self._addresses(source, index)

    def blocks_between(self, start: int, end: int) -> dict[str, set[int]]:
        """The blocks of each source that hold the rows at positions `start` to before `end`.

        Rounded up to whole windows, since a window's rows are drawn from all of its blocks.
        """
        blocks: dict[str, set[int]] = {}
        taken = np.zeros(len(self.sources), dtype=np.int64)
        ends = [*(mixture.start_row for mixture in self.mixtures[1:]), end]
        for mixture, mixture_end in zip(self.mixtures, ends, strict=True):
            first, last = max(start, mixture.start_row), min(end, mixture_end)
            if first < last:
                low = taken + shared_out(first - mixture.start_row, mixture.shares)
                high = taken + shared_out(last - mixture.start_row, mixture.shares)
                for size, here, there in zip(self.sources, low, high, strict=True):
                    if here < there:
                        found = self._source_blocks(size, int(here), int(there))
                        blocks.setdefault(size.name, set()).update(found)
            taken = taken + shared_out(mixture_end - mixture.start_row, mixture.shares)
        return blocks

    def _source_blocks(self, size: SourceSize, start: int, end: int) -> Iterator[int]:
        """The blocks of a source's rows number `start` to before `end`, passes run on."""
        for pass_number in range(start // size.rows, -(-end // size.rows)):
            first = max(start - pass_number * size.rows, 0)
            last = min(end - pass_number * size.rows, size.rows)
            yield from _pass_order(size, self.seed, pass_number).blocks_between(first, last)

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
            row[mine] = _pass_order(size, self.seed, int(pass_number)).rows_at(offset[mine])
        return row


def train_sources(
    manifest: Manifest, unit: Literal["block", "shard"] = "block"
) -> tuple[SourceSize, ...]:
    """The sizes of the training sources, by name; the order's blocks are those of `unit`."""
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
) -> RowOrder:
    """The order of `sources`; `segments` are (first position, weights), in their order.

    Weights None: by row counts, so that every source is passed once in the same time. Raises
    ConfigError for weights of unknown sources, sources without a weight, negative weights.
    """
    mixtures = tuple(
        Mixture(start, mixture_shares(sources, weights)) for start, weights in segments
    )
    starts = [mixture.start_row for mixture in mixtures]
    assert starts[0] == 0, "the first mixture begins with the stream"
    assert starts == sorted(set(starts)), f"mixtures that do not follow each other: {starts}"
    return RowOrder(tuple(sources), mixtures, seed)


def mixture_shares(
    sources: Sequence[SourceSize], weights: Mapping[str, float] | None
) -> tuple[int, ...]:
    """Integer shares of `sources`, in their order; ConfigError for weights that do not fit them."""
    names = [size.name for size in sources]
    if weights is None:
        weights = {size.name: float(size.rows) for size in sources}
    unknown = sorted(set(weights) - set(names))
    missing = sorted(set(names) - set(weights))
    if unknown or missing:
        raise ConfigError(
            f"data.weights: unknown sources {unknown}, sources without a weight {missing}; the "
            f"data set has {sorted(names)} (give a source the weight 0 to leave it out)"
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


def interleave(positions: Int64, shares: Sequence[int]) -> tuple[Int64, Int64]:
    """The source of every position [n], and which row of that source it is, counting from 0.

    Nested floors: of the first k positions floor(k * share / total) belong to the first source; the
    others are numbered anew and shared out among the rest in the same way. Any run of positions
    holds every source in its share, to within one row for each split.
    """
    source = np.empty_like(positions)
    index = positions.copy()
    undecided = np.arange(len(positions))
    for number, share, total in _splits(shares):
        at = index[undecided]
        before = _floor_share(at, share, total)
        taken = _floor_share(at + 1, share, total) > before
        source[undecided[taken]] = number
        index[undecided[taken]] = before[taken]
        index[undecided[~taken]] -= before[~taken]
        undecided = undecided[~taken]
    assert not len(undecided)
    return source, index


def shared_out(length: int, shares: Sequence[int]) -> Int64:
    """How many of the first `length` positions `interleave` gives to each source."""
    counts = np.zeros(len(shares), dtype=np.int64)
    for number, share, total in _splits(shares):
        counts[number] = length * share // total
        length -= int(counts[number])
    return counts


def _splits(shares: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(source, its share, sum of its share and all later ones) of each source that has a share."""
    total = sum(shares)
    for number, share in enumerate(shares):
        if share:
            yield number, share, total
            total -= share


def _floor_share(positions: Int64, share: int, total: int) -> Int64:
    """floor(position * share / total), without overflow for positions up to 2^42."""
    whole, rest = np.divmod(positions, total)
    return whole * share + rest * share // total


@lru_cache(maxsize=16)
def _pass_order(size: SourceSize, seed: int, pass_number: int) -> "PassOrder":
    return PassOrder(size, seed, pass_number)


class PassOrder:
    """The order of the rows of one source in one pass over it."""

    def __init__(self, size: SourceSize, seed: int, pass_number: int) -> None:
        self._size = size
        self._key = (seed, size.name, pass_number)
        num_blocks = -(-size.rows // size.block_rows)
        self._blocks = permutation(num_blocks, *self._key, "blocks")
        rows = np.full(num_blocks, size.block_rows, dtype=np.int64)
        rows[self._blocks == num_blocks - 1] = size.rows - (num_blocks - 1) * size.block_rows
        self._window_blocks = max(1, WINDOW_ROWS // size.block_rows)
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
        """The blocks of all windows that offsets `start` to before `end` of this pass lie in."""
        first, last = np.searchsorted(self._edges, [start, end - 1], side="right") - 1
        for block in self._blocks[first * self._window_blocks : (last + 1) * self._window_blocks]:
            yield int(block)

    def _order_window(self, number: int) -> Int64:
        """The row numbers of one window in their order: int64 [rows of the window]."""
        start = number * self._window_blocks
        blocks = np.sort(self._blocks[start : start + self._window_blocks])
        rows = (blocks[:, None] * self._size.block_rows + np.arange(self._size.block_rows)).ravel()
        rows = rows[rows < self._size.rows]
        return rows[permutation(len(rows), *self._key, "window", number)]


def permutation(length: int, *key: int | str) -> Int64:
    """A permutation of range(length) that depends on `key` alone."""
    raw = np.random.Philox(key=_philox_key(key)).random_raw(length)
    return np.argsort(raw, kind="stable").astype(np.int64)


def _philox_key(key: tuple[int | str, ...]) -> NDArray[np.uint64]:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.frombuffer(digest, dtype=np.uint64)
