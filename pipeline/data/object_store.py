"""Reads files of an object store by fsspec, with retries and checked hashes."""

import contextlib
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from configs.load import UserError
from data_prep.dataset.atomic import open_atomic
from data_prep.dataset.files import MAX_JSON_BYTES

RETRY_DELAYS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Waits between the tries of one file."""
COPY_BYTES = 1 << 23


class ObjectStore:
    """A folder behind an fsspec URL; failed reads are retried."""

    def __init__(self, url: str, retry_delays_s: Sequence[float] = RETRY_DELAYS_S) -> None:
        """`retry_delays_s` are the waits between the tries of one file, in seconds.

        Raises UserError for a URL that fsspec cannot open.
        """
        import fsspec  # type: ignore[import-untyped]

        self.url = url
        self._delays_s = (*retry_delays_s, None)
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise UserError(f"data.url {url}: {error}") from None

    def read(self, name: str) -> bytes:
        """The content of a file of at most `MAX_JSON_BYTES`; UserError if it is larger."""

        def read(path: str) -> bytes:
            with self._files.open(path, "rb") as stream:
                return bytes(stream.read(MAX_JSON_BYTES + 1))

        content: bytes = self._retry(name, read)
        if len(content) > MAX_JSON_BYTES:
            raise UserError(f"{self.url}/{name}: larger than {MAX_JSON_BYTES:,} bytes")
        return content

    def fetch(self, name: str, path: Path, sha256: str) -> None:
        """Writes the file `name` to `path`, complete and with the given hash.

        Raises UserError for a file that cannot be read or always has a different hash.
        """
        for _ in self._delays_s:
            with contextlib.suppress(_HashDiffers), open_atomic(path) as file:
                if self._copy(name, file) != sha256:
                    raise _HashDiffers
                return
        raise UserError(
            f"{self.url}/{name}: fetched {len(self._delays_s)} times, but its sha256 is never the "
            "manifest's: the file in the store is damaged; upload it again"
        )

    def _copy(self, name: str, file: BinaryIO) -> str:
        """Writes the content of `name` to `file`, from its first byte; its sha256."""

        def transfer(path: str) -> str:
            file.seek(0)
            file.truncate()
            digest = hashlib.sha256()
            with self._files.open(path, "rb") as stream:
                while piece := stream.read(COPY_BYTES):
                    file.write(piece)
                    digest.update(piece)
            return digest.hexdigest()

        result: str = self._retry(name, transfer)
        return result

    def sizes(self) -> dict[str, int]:
        """Bytes of every file, by its path in the folder."""
        found = self._retry("", lambda path: self._files.find(path, detail=True))
        prefix = self._root.rstrip("/") + "/"
        return {name.removeprefix(prefix): entry["size"] for name, entry in found.items()}

    def _retry(self, name: str, work: Any) -> Any:
        path = f"{self._root.rstrip('/')}/{name}".rstrip("/")
        for delay_s in self._delays_s:
            try:
                return work(path)
            except (FileNotFoundError, PermissionError) as error:
                raise UserError(f"{self.url}/{name}: {type(error).__name__}: {error}") from error
            except Exception as error:  # every store has its own errors, most are transient
                if delay_s is None:
                    raise UserError(
                        f"{self.url}/{name}: {type(error).__name__}: {error} (tried "
                        f"{len(self._delays_s)} times)"
                    ) from error
                time.sleep(delay_s)
        raise AssertionError("the last try returns or raises")


class _HashDiffers(Exception):
    """The fetched bytes do not have the expected hash."""
