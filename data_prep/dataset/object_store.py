"""A folder in an object store: reads and writes whole files, with retries and checked hashes."""

import base64
import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from configs.load import UserError
from data_prep.dataset.atomic import open_atomic
from data_prep.dataset.files import MAX_JSON_BYTES, open_regular
from data_prep.dataset.url_files import (
    RETRY_DELAYS_S,
    UrlError,
    UrlFile,
    file_system_of,
    for_this_thread,
    retried,
    whole_content,
)

UPLOAD_PART_BYTES, _PARTS_AT_ONCE = 1 << 24, 4
"""The parts in which a large file is uploaded, and how many of them are held in memory."""


@dataclass(frozen=True)
class FileHashes:
    """What a file is recognised by."""

    num_bytes: int
    sha256: str
    md5: str
    md5_of_parts: str
    """What the S3 protocol gives as the ETag of a file that was uploaded in parts."""


def hashes_of(path: Path) -> FileHashes:
    """The hashes of a local file, which is read once."""
    sha256, md5, parts = hashlib.sha256(), hashlib.md5(), []
    num_bytes = 0
    with open_regular(path) as file:
        while part := file.read(UPLOAD_PART_BYTES):
            num_bytes += len(part)
            sha256.update(part)
            md5.update(part)
            parts.append(hashlib.md5(part).digest())
    of_parts = f"{hashlib.md5(b''.join(parts)).hexdigest()}-{len(parts)}"
    return FileHashes(num_bytes, sha256.hexdigest(), md5.hexdigest(), of_parts)


class ObjectStore:
    """A folder at an fsspec URL; failed requests are tried again. Methods raise UserError for what
    cannot be read or written."""

    def __init__(self, url: str, retry_delays_s: Sequence[float] = RETRY_DELAYS_S) -> None:
        """`retry_delays_s` are the waits between the tries of one request, in seconds.

        Raises UserError for a URL that fsspec cannot open, or that names no folder.
        """
        self.url = url.rstrip("/")
        if "://" not in self.url:
            raise UserError(f"{url}: names no folder in a store, as s3://bucket/rows does")
        self._delays_s = retry_delays_s
        self._files, root = file_system_of(self.url)
        self._root = root.rstrip("/")

    def read(self, name: str) -> bytes:
        """The content of a file of at most `MAX_JSON_BYTES`; UserError if it is larger."""
        file = self._file(name)
        with _reported():
            num_bytes = file.info()["size"]
            if num_bytes > MAX_JSON_BYTES:
                raise UserError(f"{file.url}: larger than {MAX_JSON_BYTES:,} bytes")
            return b"".join(whole_content(file, num_bytes))

    def fetch(self, name: str, path: Path, sha256: str) -> None:
        """Writes the file `name` to `path`, complete and with the given hash.

        Raises UserError for a file that cannot be read or always has a different hash.
        """
        num_tries = len(self._delays_s) + 1
        for _ in range(num_tries):
            with suppress(_HashDiffers), open_atomic(path) as file:
                if self._copy(name, file) != sha256:
                    raise _HashDiffers
                return
        raise UserError(
            f"{self.url}/{name}: fetched {num_tries} times, but its sha256 is never the "
            "manifest's: the file in the store is damaged; upload it again"
        )

    def files(self) -> dict[str, Mapping[str, Any]]:
        """What the store says of every file, by its path in the folder."""

        def work() -> dict[str, Mapping[str, Any]]:
            self._files.invalidate_cache()
            found: dict[str, Mapping[str, Any]] = self._files.find(self._root, detail=True)
            return found

        with _reported():
            found = retried(self.url, work, self._delays_s)
        return {name.removeprefix(f"{self._root}/"): entry for name, entry in found.items()}

    def holds(self, name: str, entry: Mapping[str, Any], hashes: FileHashes) -> bool:
        """Whether the file `name`, of which `files` says `entry`, is one with these hashes.

        Where the store gives no MD5, as with keys of encryption, the file is read.
        """
        if entry["size"] != hashes.num_bytes:
            return False
        etag, md5 = str(entry.get("ETag", "")).strip('"'), entry.get("md5Hash")
        if etag in (hashes.md5, hashes.md5_of_parts):
            return True
        if md5 is not None and base64.b64decode(md5).hex() == hashes.md5:
            return True
        digest = hashlib.sha256()
        with _reported():
            for block in whole_content(self._file(name), hashes.num_bytes):
                digest.update(block)
        return digest.hexdigest() == hashes.sha256

    def upload(self, name: str, path: Path, hashes: FileHashes) -> None:
        """Writes the local file `path`, which has these hashes, to `name`, and checks it there."""
        file = self._file(name)
        parts = self._upload_settings()

        def work() -> None:
            files = for_this_thread(self._files, self.url)
            if not files.async_impl:  # folders are there without being made elsewhere
                files.makedirs(file.path.rpartition("/")[0], exist_ok=True)
            files.put_file(str(path), file.path, **parts)

        for _ in range(len(self._delays_s) + 1):
            with _reported():
                retried(file.url, work, self._delays_s)
                entry = file.info()
            if self.holds(name, entry, hashes):
                return
        raise UserError(f"{file.url}: what the store holds is never what was uploaded ({path})")

    def _upload_settings(self) -> dict[str, int]:
        """What the library of the store takes of the size and the number of parts."""
        put_file = getattr(self._files, "_put_file", None)
        known = inspect.signature(put_file).parameters if put_file is not None else ()
        wanted = {"chunksize": UPLOAD_PART_BYTES, "max_concurrency": _PARTS_AT_ONCE}
        return {name: value for name, value in wanted.items() if name in known}

    def _file(self, name: str) -> UrlFile:
        place = f"{self.url}/{name}", self._files, f"{self._root}/{name}"
        return UrlFile(*place, retry_delays_s=self._delays_s)

    def _copy(self, name: str, file: BinaryIO) -> str:
        """Writes the content of `name` to `file`; its sha256."""
        digest, remote = hashlib.sha256(), self._file(name)
        with _reported():
            for block in whole_content(remote, remote.info()["size"]):
                file.write(block)
                digest.update(block)
        return digest.hexdigest()


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except UrlError as error:
        raise UserError(str(error)) from error


class _HashDiffers(Exception):
    """The fetched bytes do not have the expected hash."""
