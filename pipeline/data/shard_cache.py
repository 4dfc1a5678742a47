"""Rows that lie in an object store: whole shards, fetched ahead into a cache on each node.

`data.path` is the cache; it has the layout of a data set, so everything that reads one reads it.
All processes of a node share it: a shard is fetched by the first that wants it, under a file lock,
checked against the manifest's sha256, and renamed into place; the least recently opened ones are
removed when the cache is full. A file that is removed while a process reads it stays readable.
"""

import contextlib
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from configs.load import ConfigError, UserError
from data_prep.dataset.atomic import PARTIAL_MARK, open_atomic
from data_prep.dataset.manifest import (
    MANIFEST_NAME,
    Manifest,
    Shard,
    Split,
    read_manifest,
    verify_shards,
)
from data_prep.dataset.row_reader import RowReader
from pipeline.data import order
from pipeline.data.config import DataConfig

RETRY_DELAYS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Waits between the tries of one file."""
COPY_BYTES = 1 << 23
LOCKS_FOLDER = ".locks"


def open_data_set(data: DataConfig) -> Manifest:
    """The manifest of `data`; fetches it, and the tokenizer, where `data.url` says from.

    Raises UserError where there is none, or the cache holds another data set.
    """
    if data.url is None:
        return read_manifest(data.path)
    fetched = _Store(data.url).read(MANIFEST_NAME)
    path = data.path / MANIFEST_NAME
    with _lock(data.path, MANIFEST_NAME):
        if not path.exists():
            with open_atomic(path) as file:
                file.write(fetched)
        elif path.read_bytes() != fetched:
            raise UserError(
                f"{data.path} caches another data set than {data.url} holds now: set data.path to "
                "another folder, or delete this one"
            )
    manifest = read_manifest(data.path)
    _check_cache_size(data, manifest)
    tokenizer = data.path / manifest.tokenizer.path
    with _lock(data.path, "tokenizer"):
        if not tokenizer.exists():
            _fetch(_Store(data.url), manifest.tokenizer.path, tokenizer, manifest.tokenizer.sha256)
    return manifest


def row_reader(data: DataConfig, manifest: Manifest, split: Split) -> RowReader:
    """A reader of the rows of `data`, which fetches shards that are not here."""
    cache = shard_cache(data)
    return RowReader(data.path, manifest, split, cache.open if cache else None)


def verify_data_set(data: DataConfig, manifest: Manifest) -> None:
    """Raises one UserError that names all shards which are missing or not those of the manifest.

    In a store only sizes are looked at: the hash of each shard is checked when it comes.
    """
    if data.url is None:
        verify_shards(data.path, manifest, full=data.verify == "full")
        return
    sizes = _Store(data.url).sizes()
    sources = [source for split in manifest.splits.values() for source in split.values()]
    problems = []
    for shard in (shard for source in sources for shard in source.shards):
        found = sizes.get(shard.path)
        if found != shard.bytes:
            what = "missing" if found is None else f"{found:,} bytes instead of {shard.bytes:,}"
            problems.append(f"\n  {shard.path}: {what}")
    if problems:
        raise UserError(
            f"{data.url}: {len(problems)} shard(s) differ from the manifest:{''.join(problems)}"
        )


@dataclass(frozen=True)
class ShardCache:
    """The shards of a store that lie in `folder`, at most `limit_bytes` of them."""

    url: str
    folder: Path
    limit_bytes: int

    def open(self, shard: Shard) -> BinaryIO:
        """The shard's file, fetched if it is not here; raises UserError if it cannot be had."""
        path = self.folder / shard.path
        while True:
            try:
                file = open(path, "rb")  # noqa: SIM115  (the caller closes it)
            except FileNotFoundError:
                self.fetch(shard)
                continue
            with contextlib.suppress(FileNotFoundError):  # removed since; we have it open
                os.utime(path)
            return file

    def fetch(self, shard: Shard, wait: bool = True) -> None:
        """Brings a shard here; without `wait`, leaves it to a process that is at it already."""
        path = self.folder / shard.path
        with _lock(self.folder, shard.path, wait) as is_mine:
            if not is_mine or path.exists():
                return
            for leftover in path.parent.glob(f"{path.name}{PARTIAL_MARK}*"):  # of a killed process
                leftover.unlink()
            self._make_room(shard.bytes)
            _fetch(_Store(self.url), shard.path, path, shard.sha256)

    def _make_room(self, wanted_bytes: int) -> None:
        """Removes the least recently opened shards until `wanted_bytes` more fit."""
        with _lock(self.folder, "room"):
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
    """Fetches the shards of the rows to come, in a thread of this process."""

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
            except UserError as error:  # whoever needs the shard tries again, and then it is fatal
                print(f"warning: fetched ahead in vain: {error}", flush=True)


def shard_cache(data: DataConfig) -> ShardCache | None:
    """The cache of `data`; None where the rows lie in `data.path` itself."""
    if data.url is None:
        return None
    return ShardCache(data.url, data.path, int(data.cache_gb * 1e9))


def window_bytes(manifest: Manifest) -> int:
    """Bytes of the shards that one window of every training source lies in."""
    total = 0
    for source in manifest.splits["train"].values():
        largest = max((shard.bytes for shard in source.shards), default=0)
        first = source.shards[0].rows if source.shards else 1
        num_shards = min(len(source.shards), max(1, order.WINDOW_ROWS // first))
        total += num_shards * largest
    return total


def _check_cache_size(data: DataConfig, manifest: Manifest) -> None:
    needed = 2 * window_bytes(manifest)
    if data.cache_gb * 1e9 < needed:
        raise ConfigError(
            f"data.cache_gb {data.cache_gb:g} is too small: the shards of two shuffle windows take "
            f"{needed / 1e9:.3g} GB; raise it, or make the shards smaller"
        )


class _Store:
    """A folder behind an fsspec URL; reads are tried again when they fail."""

    def __init__(self, url: str) -> None:
        import fsspec  # type: ignore[import-untyped]

        self.url = url
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise UserError(f"data.url {url}: {error}") from None

    def read(self, name: str) -> bytes:
        """The content of a small file."""
        content: bytes = self._retried(name, lambda path: self._files.cat_file(path))
        return content

    def copy(self, name: str, file: BinaryIO) -> str:
        """Writes the content of `name` to `file`, from its beginning; its sha256."""

        def transfer(path: str) -> str:
            file.seek(0)
            file.truncate()
            digest = hashlib.sha256()
            with self._files.open(path, "rb") as stream:
                while piece := stream.read(COPY_BYTES):
                    file.write(piece)
                    digest.update(piece)
            return digest.hexdigest()

        result: str = self._retried(name, transfer)
        return result

    def sizes(self) -> dict[str, int]:
        """Bytes of every file, by its path in the folder."""
        found = self._retried("", lambda path: self._files.find(path, detail=True))
        prefix = self._root.rstrip("/") + "/"
        return {name.removeprefix(prefix): entry["size"] for name, entry in found.items()}

    def _retried(self, name: str, work: Any) -> Any:
        path = f"{self._root.rstrip('/')}/{name}".rstrip("/")
        for delay_s in (*RETRY_DELAYS_S, None):
            try:
                return work(path)
            except (FileNotFoundError, PermissionError) as error:
                raise UserError(f"{self.url}/{name}: {type(error).__name__}: {error}") from error
            except Exception as error:  # every store has its own errors, most of them pass
                if delay_s is None:
                    raise UserError(
                        f"{self.url}/{name}: {type(error).__name__}: {error} (tried "
                        f"{len(RETRY_DELAYS_S) + 1} times)"
                    ) from error
                time.sleep(delay_s)
        raise AssertionError("the last try returns or raises")


def _fetch(store: _Store, name: str, path: Path, sha256: str) -> None:
    """Writes `name` of the store to `path`, whole and of the right hash, or raises UserError."""
    for _ in (*RETRY_DELAYS_S, None):
        with contextlib.suppress(_WrongHash), open_atomic(path) as file:
            found = store.copy(name, file)
            if found != sha256:
                raise _WrongHash
            return
    raise UserError(
        f"{store.url}/{name}: fetched {len(RETRY_DELAYS_S) + 1} times, but its sha256 is never the "
        "manifest's: the file in the store is damaged; upload it again"
    )


class _WrongHash(Exception):
    """The bytes that came are not those that the manifest names."""


@contextlib.contextmanager
def _lock(folder: Path, name: str, wait: bool = True) -> Iterator[bool]:
    """Holds the lock `name` of a cache among all processes of the node; False if it was taken."""
    path = folder / LOCKS_FOLDER / (name.replace("/", "%") + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
