"""Rows in an object store: whole shards, prefetched into a cache on each node.

`data.path` is the cache; it has the layout of a data set, so everything that reads one reads it.
All processes of a node share it: a shard is fetched by the first process that needs it, under a
file lock, checked against the manifest's sha256, and renamed into place; the least recently opened
shards are removed when the cache is full. A file that is removed while a process reads it stays
readable.
"""

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from configs.load import ConfigError, UserError
from data_prep.dataset.atomic import PARTIAL_MARK, open_atomic
from data_prep.dataset.files import open_inside, read_regular
from data_prep.dataset.manifest import (
    MANIFEST_NAME,
    Manifest,
    Shard,
    Split,
    read_manifest,
)
from data_prep.dataset.object_store import ObjectStore
from data_prep.dataset.row_reader import RowReader
from data_prep.dataset.url_files import RETRY_DELAYS_S
from data_prep.dataset.verify import verify_shards
from pipeline.data.config import DataConfig
from pipeline.data.order import WINDOW_ROWS

LOCKS_FOLDER = ".locks"

logger = logging.getLogger(__name__)


def open_data_set(data: DataConfig, window_rows: int = WINDOW_ROWS) -> Manifest:
    """The manifest of `data`; with `data.url`, fetches it and the tokenizer from there.

    `window_rows` is the size of a shuffle window: the cache must hold the shards of two windows.
    Raises UserError where there is no data set, or the cache holds a different one.
    """
    if data.url is None:
        return read_manifest(data.path)
    store = ObjectStore(data.url)
    fetched = store.read(MANIFEST_NAME)
    path = data.path / MANIFEST_NAME
    with _lock(data.path, MANIFEST_NAME):
        if not path.exists():
            with open_atomic(path) as file:
                file.write(fetched)
        elif read_regular(path) != fetched:
            raise UserError(
                f"{data.path} caches a different data set than {data.url} holds now: set data.path "
                "to a new folder, or delete this one"
            )
    manifest = read_manifest(data.path)
    _check_cache_size(data, manifest, window_rows)
    tokenizer = data.path / manifest.tokenizer.path
    with _lock(data.path, "tokenizer"):
        if not tokenizer.exists():
            store.fetch(manifest.tokenizer.path, tokenizer, manifest.tokenizer.sha256)
    return manifest


def row_reader(data: DataConfig, manifest: Manifest, split: Split) -> RowReader:
    """A reader of the rows of `data`, which fetches shards that are not in the cache."""
    cache = shard_cache(data)
    return RowReader(data.path, manifest, split, cache.open if cache else None)


def check_sizes(data: DataConfig, manifest: Manifest) -> None:
    """Raises one UserError that names all shards that are missing or of another size.

    On disk their hashes are compared by `pipeline.data.verification`, those of a store when each
    shard is fetched.
    """
    if any(shard.block_xxh3_64 is None for shard in manifest.shards()):
        logger.info(
            "%s: prepared by an older version, without checksums of blocks: damage to a shard "
            "after this start is not noticed",
            data.url or data.path,
        )
    if data.url is None:
        verify_shards(data.path, manifest)
        return
    entries = ObjectStore(data.url).files()
    problems = []
    for shard in manifest.shards():
        found = entries[shard.path]["size"] if shard.path in entries else None
        if found != shard.bytes:
            what = "missing" if found is None else f"{found:,} bytes instead of {shard.bytes:,}"
            problems.append(f"\n  {shard.path}: {what}")
    if problems:
        raise UserError(
            f"{data.url}: {len(problems)} shard(s) differ from the manifest:{''.join(problems)}"
        )


@dataclass(frozen=True)
class ShardCache:
    """The shards of a store that are cached in `folder`."""

    url: str
    """Address of the store."""
    folder: Path
    """The cache on this node."""
    limit_bytes: int
    """Largest total size of the shards in it."""
    retry_delays_s: tuple[float, ...] = RETRY_DELAYS_S
    """Waits between the tries of one shard, seconds."""

    def open(self, shard: Shard) -> BinaryIO:
        """The shard's file, fetched if it is not cached; raises UserError if that fails."""
        path = self.folder / shard.path
        while True:
            try:
                file = open_inside(self.folder, shard.path)
            except FileNotFoundError:
                self.fetch(shard)
                continue
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile; it is open here
                os.utime(path)
            return file

    def fetch(self, shard: Shard, wait: bool = True) -> None:
        """Fetches a shard; without `wait`, not one that another process is fetching already."""
        path = self.folder / shard.path
        with _lock(self.folder, shard.path, wait) as is_mine:
            if not is_mine or path.exists():
                return
            for leftover in path.parent.glob(f"{path.name}{PARTIAL_MARK}*"):  # of a killed process
                leftover.unlink()
            self._free_space(shard.bytes)
            store = ObjectStore(self.url, self.retry_delays_s)
            store.fetch(shard.path, path, shard.sha256)

    def _free_space(self, wanted_bytes: int) -> None:
        """Removes the least recently opened shards until `wanted_bytes` more fit."""
        with _lock(self.folder, "space"):
            found = []
            for path in self.folder.rglob("*.tar"):
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    found.append((status.st_mtime_ns, status.st_size, path))
            total = wanted_bytes + sum(size for _, size, _ in found)
            for _, size, path in sorted(found):
                if total <= self.limit_bytes:
                    break
                path.unlink(missing_ok=True)
                total -= size


class Prefetcher:
    """Fetches the shards of the next rows, in a thread of this process."""

    def __init__(self, cache: ShardCache) -> None:
        self._cache = cache
        self._asked: set[str] = set()
        self._thread: threading.Thread | None = None

    def ask(self, shards: Iterable[Shard]) -> None:
        """Fetches those of `shards` that were not in the last call, if no fetch is under way."""
        if self._thread is not None and self._thread.is_alive():
            return
        wanted = {shard.path: shard for shard in shards}
        new = [shard for path, shard in wanted.items() if path not in self._asked]
        self._asked = set(wanted)
        if new:
            self._thread = threading.Thread(target=self._run, args=(new,), daemon=True)
            self._thread.start()

    def _run(self, shards: list[Shard]) -> None:
        for shard in shards:
            try:
                self._cache.fetch(shard, wait=False)
            except UserError as error:  # the reader of the shard retries; there it is fatal
                logger.warning("prefetching failed: %s", error)


def shard_cache(data: DataConfig) -> ShardCache | None:
    """The cache of `data`; None where `data.path` is the data set itself."""
    if data.url is None:
        return None
    return ShardCache(data.url, data.path, int(data.cache_gb * 1e9))


def window_bytes(manifest: Manifest, window_rows: int) -> int:
    """Bytes of the shards that hold one shuffle window of every training source."""
    total = 0
    for source in manifest.splits["train"].values():
        largest = max((shard.bytes for shard in source.shards), default=0)
        first = source.shards[0].rows if source.shards else 1
        num_shards = min(len(source.shards), max(1, window_rows // first))
        total += num_shards * largest
    return total


def _check_cache_size(data: DataConfig, manifest: Manifest, window_rows: int) -> None:
    needed = 2 * window_bytes(manifest, window_rows)
    if data.cache_gb * 1e9 < needed:
        raise ConfigError(
            f"data.cache_gb {data.cache_gb:g} is too small: the shards of two shuffle windows take "
            f"{needed / 1e9:.3g} GB; raise it, or make the shards smaller"
        )


@contextlib.contextmanager
def _lock(folder: Path, name: str, wait: bool = True) -> Iterator[bool]:
    """Holds the lock `name` of a cache among all processes of the node; yields False if it is
    held by another process and `wait` is False."""
    path = folder / LOCKS_FOLDER / (name.replace("/", "%") + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
