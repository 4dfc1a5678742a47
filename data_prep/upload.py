"""Uploads finished rows to an object store: ``python -m data_prep.upload FOLDER URL``.

FOLDER is the `output` of data preparation, URL a folder such as ``s3://bucket/rows``, which
``data.url`` of a training config then names. Every file is checked before and after; manifest.json
comes last. Run again after an interrupt or an error, it uploads only what is missing.
"""

import hashlib
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs import command
from configs.load import UserError
from data_prep.dataset.manifest import MANIFEST_NAME, Manifest, read_manifest
from data_prep.dataset.object_store import ObjectStore, hashes_of

logger = logging.getLogger(__name__)

_FILES_AT_ONCE = 3
_REPORTS = ("report.html", "report.json")
_DAMAGED = "damaged: its sha256 is not the manifest's; restore it, or prepare the rows again"
_CHANGED = "changed during the upload; run again to upload the rows that are there now"


def main() -> None:
    """Uploads the rows that the command line names."""
    parser = command.plain_parser(__doc__ or "")
    parser.add_argument("folder", metavar="FOLDER", help="the output of data preparation")
    parser.add_argument("url", metavar="URL", help="the folder in the store")
    arguments = parser.parse_args()
    upload(Path(arguments.folder), arguments.url)


def upload(folder: Path, url: str) -> list[str]:
    """Uploads the data set in `folder`; the names of the files that were not there yet.

    Raises UserError for a folder without finished rows, a damaged file, and a store that cannot be
    written or that holds another data set at `url`.
    """
    manifest, store = read_manifest(folder), ObjectStore(url)
    upload = _Upload(store, folder, store.files())
    own = (folder / MANIFEST_NAME).read_bytes()
    if MANIFEST_NAME in upload.there and store.read(MANIFEST_NAME) != own:
        raise UserError(
            f"{store.url}: holds another data set; choose another URL, or delete that one first"
        )
    names = _expected_hashes(folder, manifest)
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        try:
            sent = list(pool.map(upload.send, names.keys(), names.values()))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    sent.append(upload.send(MANIFEST_NAME, hashlib.sha256(own).hexdigest()))
    new = [name for name, is_new in zip([*names, MANIFEST_NAME], sent, strict=True) if is_new]
    logger.info(
        "%s: %d files uploaded, %d were there already; train with data.url: %s",
        *(store.url, len(new), len(sent) - len(new), store.url),
    )
    return new


def _expected_hashes(folder: Path, manifest: Manifest) -> dict[str, str | None]:
    """The files of a data set before its manifest, with the sha256 that it states."""
    names: dict[str, str | None] = {shard.path: shard.sha256 for shard in manifest.shards()}
    names[manifest.tokenizer.path] = manifest.tokenizer.sha256
    return names | {name: None for name in _REPORTS if (folder / name).exists()}


@dataclass(frozen=True)
class _Upload:
    """Files on their way from `folder` to `store`."""

    store: ObjectStore
    folder: Path
    there: Mapping[str, Mapping[str, Any]]
    """What the store says of its files at the start."""

    def send(self, name: str, sha256: str | None) -> bool:
        """Uploads a file unless the store holds it; whether it did not."""
        path, store = self.folder / name, self.store
        try:
            hashes = hashes_of(path)
        except FileNotFoundError:
            raise UserError(f"{path}: missing; restore it, or prepare the rows again") from None
        if sha256 is not None and hashes.sha256 != sha256:
            raise UserError(f"{path}: {_CHANGED if name == MANIFEST_NAME else _DAMAGED}")
        if name in self.there and store.holds(name, self.there[name], hashes):
            return False
        store.upload(name, path, hashes)
        logger.info("%s/%s: uploaded, %.1f MB", store.url, name, hashes.num_bytes / 1e6)
        return True


if __name__ == "__main__":
    command.run(main)
