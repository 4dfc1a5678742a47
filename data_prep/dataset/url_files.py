"""Files behind fsspec URLs: ranges of bytes, with failed requests repeated, and many at a time.

One request at a time leaves most of a connection to an object store unused, and small ones cost
their latency each. So consecutive content is read in blocks that grow to `BLOCK_BYTES`, of which
`BLOCKS_AT_ONCE` are held or under way.
"""

import errno
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from configs.load import UserError

RETRY_DELAYS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Waits between the tries of one request, on top of those of the store's own library."""
FIRST_BLOCK_BYTES, BLOCK_BYTES = 1 << 18, 1 << 23
BLOCKS_AT_ONCE = 4

Read = Callable[[int, int], bytes]
"""Gives the bytes [start, end) of a file."""


class UrlError(OSError):
    """A file at a URL cannot be read or written; the text is for the user.

    It has an errno, so that no reader takes it for damage of a file's content.
    """

    def __init__(self, message: str) -> None:
        super().__init__(errno.EIO, message)

    def __str__(self) -> str:
        return str(self.strerror)


class UrlMissingError(UrlError):
    """There is no such file."""


def file_system_of(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it; UserError if it cannot be opened."""
    import fsspec  # type: ignore[import-untyped]

    try:
        file_system, path = fsspec.core.url_to_fs(url)
    except Exception as error:  # every protocol has its own library with its own errors
        raise UserError(
            f"{url}: {type(error).__name__}: {error}; check the address, that the library for it "
            "is installed (s3fs for s3://, gcsfs for gs://), and the credentials in the environment"
        ) from error
    return file_system, path


def for_this_thread(file_system: Any, url: str) -> Any:
    """The file system of a URL, for requests of the calling thread.

    One that is not asynchronous, as of FTP, serves a single thread; fsspec has one for each.
    """
    return file_system if file_system.async_impl else file_system_of(url)[0]


def retried(url: str, work: Callable[[], Any], delays_s: Sequence[float] | None = None) -> Any:
    """What `work` gives, tried again after each of the delays (without any: `RETRY_DELAYS_S`),
    unless a try is of no use.

    Raises UrlMissingError for a file that is not there, and else UrlError, after the last try.
    """
    delays_s = RETRY_DELAYS_S if delays_s is None else delays_s
    for delay_s in (*delays_s, None):
        try:
            return work()
        except UrlError:  # known to be final
            raise
        except FileNotFoundError as error:
            raise UrlMissingError(f"{url}: FileNotFoundError: {error}") from error
        except Exception as error:  # every store has its own errors, most are transient
            name = type(error).__name__
            if isinstance(error, PermissionError) or "Credentials" in name:
                raise UrlError(
                    f"{url}: {name}: {error}; check the credentials in the environment and what "
                    "they permit"
                ) from error
            if delay_s is None:
                tries = f"tried {len(delays_s) + 1} times"
                raise UrlError(f"{url}: {name}: {error} ({tries})") from error
            time.sleep(delay_s)
    raise AssertionError("the last try returns or raises")


@dataclass(frozen=True)
class UrlFile:
    """One file at a URL."""

    url: str
    file_system: Any
    """The fsspec file system."""
    path: str
    """The path in it."""
    retry_delays_s: Sequence[float] | None = None

    @classmethod
    def of(cls, url: str) -> "UrlFile":
        """The file that a URL names."""
        return cls(url, *file_system_of(url))

    def info(self) -> dict[str, Any]:
        """What the store says of the file now; raises UrlError."""

        def work() -> dict[str, Any]:
            file_system = for_this_thread(self.file_system, self.url)
            file_system.invalidate_cache(self.path)  # of listings
            found: dict[str, Any] = file_system.info(self.path)
            return found

        found: dict[str, Any] = retried(self.url, work, self.retry_delays_s)
        return found

    def read(self, start: int, end: int) -> bytes:
        """The bytes [start, end), all of which exist; one request. Raises UrlError."""
        content: bytes = retried(self.url, lambda: self._range(start, end), self.retry_delays_s)
        return content

    def _range(self, start: int, end: int) -> bytes:
        if end <= start:
            return b""
        file_system = for_this_thread(self.file_system, self.url)
        if file_system.async_impl:
            content = bytes(file_system.cat_file(self.path, start=start, end=end))
        else:  # their own file objects would read more, ahead
            with file_system.open(self.path, "rb", cache_type="none") as stream:
                stream.seek(start)
                content = bytes(stream.read(end - start))
        if len(content) > end - start:
            raise UrlError(
                f"{self.url}: {len(content):,} bytes instead of [{start:,}, {end:,}): its server "
                "does not give ranges of files; copy the file to a disk or to an object store"
            )
        if len(content) < end - start:
            raise EOFError(f"{len(content):,} bytes instead of [{start:,}, {end:,})")
        return content


def blocks_of(ranges: Iterable[tuple[int, int]], at: int) -> Iterator[tuple[int, int]]:
    """The ranges, which ascend, from byte `at` on, in blocks that double up to `BLOCK_BYTES`."""
    block_bytes = FIRST_BLOCK_BYTES
    for start, end in ranges:
        start = max(start, at)
        while start < end:
            yield start, min(start + block_bytes, end)
            start += block_bytes
            block_bytes = min(2 * block_bytes, BLOCK_BYTES)


class ReadAhead:
    """Reads blocks of a file in threads, ahead of who takes them."""

    def __init__(self, read: Read, blocks: Iterator[tuple[int, int]]) -> None:
        self._read, self._blocks = read, blocks
        self._pool = ThreadPoolExecutor(BLOCKS_AT_ONCE)
        self._waiting: deque[tuple[int, int, Future[bytes]]] = deque()
        self._fill()

    @property
    def start(self) -> int | None:
        """First byte of the next block; None after the last."""
        return self._waiting[0][0] if self._waiting else None

    @property
    def end(self) -> int:
        """The byte after those that are asked for so far; 0 if there are none."""
        return self._waiting[-1][1] if self._waiting else 0

    def take(self) -> tuple[int, bytes]:
        """(first byte, content) of the next block; raises what reading it raised."""
        self._fill()
        start, _, content = self._waiting.popleft()
        return start, content.result()

    def close(self) -> None:
        """Forgets what was not taken, without waiting for the requests that are under way."""
        self._waiting.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _fill(self) -> None:
        while len(self._waiting) < BLOCKS_AT_ONCE and (block := next(self._blocks, None)):
            self._waiting.append((*block, self._pool.submit(self._read, *block)))


def whole_content(file: UrlFile, num_bytes: int) -> Iterator[bytes]:
    """The content of a file of `num_bytes`, block by block; raises UrlError."""
    ahead = ReadAhead(file.read, blocks_of([(0, num_bytes)], 0))
    try:
        while ahead.start is not None:
            yield ahead.take()[1]
    finally:
        ahead.close()
