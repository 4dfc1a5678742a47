"""Writes checkpoints in the background; a checkpoint is either complete or not there.

The training thread copies what this rank holds of the state to host memory; a second thread writes,
syncs and hashes it while training continues. Each rank writes a file of its own, so a save does not
cost more with more ranks. That thread uses no collective: ranks coordinate through files in the
unfinished folder ``.saving-...``, and rank 0 renames it to ``step-...`` when all parts are there.
"""

import errno
import hashlib
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import save_file

from configs.load import Config, UserError
from data_prep.dataset.atomic import fsync_folder, write_atomic
from data_prep.dataset.manifest import file_sha256
from model.parallel.grid import Grid
from model.parallel.json_exchange import broadcast_json
from pipeline.checkpoint.best import by_score
from pipeline.checkpoint.config import CheckpointConfig
from pipeline.checkpoint.fragments import FRAGMENTS_NAME, Fragment, table_json
from pipeline.checkpoint.manifest import (
    FRAGMENTED_VERSION,
    MANIFEST_NAME,
    TOKENIZER_NAME,
    CheckpointManifest,
    checkpoint_folder,
    fragment_name,
    list_checkpoints,
    manifest_json,
    read_manifest,
    tensor_key,
)
from pipeline.checkpoint.records import FileRecord

PEER_TIMEOUT_S = 900.0
"""How long rank 0 waits for the parts of the other ranks before a save counts as failed: less than
the other ranks wait for rank 0 in a collective."""

POLL_S = 0.02
PART_SUFFIX = ".part.json"
FAILED_SUFFIX = ".failed"

logger = logging.getLogger(__name__)


class Saver:
    """Writes checkpoints of one run in the background, one at a time."""

    def __init__(
        self, folder: Path, keep: CheckpointConfig, grid: Grid, tokenizer: Path | None = None
    ) -> None:
        """A collective: all ranks of a launch agree on a name for their unfinished folders.

        The content of `tokenizer` is read here and becomes part of every checkpoint.
        """
        if grid.rank == 0:  # before the broadcast, after which other ranks may start to write
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in (*folder.glob(".saving-*"), *folder.glob(".deleting-*")):
                shutil.rmtree(leftover)
        nonce: str = broadcast_json(secrets.token_hex(4))
        self._folder = folder
        self._keep = keep
        self._rank = grid.rank
        self._tp_rank = grid.tp_rank
        self._tokenizer = tokenizer.read_bytes() if tokenizer else None
        self._nonce = nonce
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._failed_step: int | None = None

    def save(
        self, manifest: CheckpointManifest, snapshot: Callable[[], Mapping[str, Fragment]]
    ) -> None:
        """Starts writing what `snapshot` returns by parameter: this rank's part of a checkpoint.

        Waits until the previous save is finished before it calls `snapshot` (a collective), which
        may then reuse the memory of the previous snapshot. Of what all tensor-parallel ranks hold,
        the first one writes.
        """
        self._wait()
        if self._rank == 0 and self._failed_step is not None:
            # Also the parts that came after it had failed.
            shutil.rmtree(self._unfinished(self._failed_step), ignore_errors=True)
            self._failed_step = None
        fragments = {
            name: fragment
            for name, fragment in snapshot().items()
            if self._tp_rank == 0 or manifest.parameters[name].partition_dim is not None
        }
        self._thread = threading.Thread(
            target=self._run, args=(manifest, fragments), name="checkpoint-writer"
        )
        self._thread.start()

    def _unfinished(self, step: int) -> Path:
        """The folder of a checkpoint until all of it is written."""
        return self._folder / f".saving-{step:08d}-{self._nonce}"

    def report_errors(self) -> None:
        """Logs a save that failed since the last call; training continues to the next save."""
        error, self._error = self._error, None
        if error is not None:
            logger.warning("%s; older checkpoints are complete, training continues", error)

    def finish(self) -> None:
        """Returns when all is on disk; raises UserError if the last save failed."""
        self._wait()
        if self._error is not None:
            raise UserError(
                f"{self._error}; fix that and run the same command again: it resumes from the "
                "newest complete checkpoint"
            ) from self._error

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, manifest: CheckpointManifest, fragments: Mapping[str, Fragment]) -> None:
        unfinished = self._unfinished(manifest.step)
        try:
            unfinished.mkdir(parents=True, exist_ok=True)
            name = fragment_name(self._rank, manifest.tp_size, manifest.dp_size)
            _write_part(unfinished, name, fragments)
            if self._rank == 0:
                parts = _wait_for_parts(unfinished, manifest.tp_size, manifest.dp_size)
                table = table_json([part.ranges for part in parts]).encode()
                written = {
                    "format_version": FRAGMENTED_VERSION,
                    "files": tuple(part.file for part in parts),
                    "fragments": _write_file(unfinished / FRAGMENTS_NAME, table),
                    "tokenizer": self._tokenizer
                    and _write_file(unfinished / TOKENIZER_NAME, self._tokenizer),
                }
                self._publish(unfinished, manifest.model_copy(update=written))
        except Exception as error:
            cause = error
            if self._rank != 0 and not unfinished.exists():  # rank 0 has removed it
                cause = OSError("another rank could not write its part")
            else:
                _report_failure(unfinished, self._rank, error)
            self._error, self._failed_step = CheckpointNotSaved(manifest.step, cause), manifest.step
            if self._rank == 0:
                shutil.rmtree(unfinished, ignore_errors=True)

    def _publish(self, unfinished: Path, manifest: CheckpointManifest) -> None:
        for sidecar in unfinished.glob(f"*{PART_SUFFIX}"):
            sidecar.unlink()
        write_atomic(unfinished / MANIFEST_NAME, manifest_json(manifest))
        final = checkpoint_folder(self._folder, manifest.step)
        if final.exists():  # a damaged one of the same step, skipped at the start
            damaged = final.with_name(f"damaged-{final.name}-{self._nonce}")
            final.rename(damaged)
        unfinished.rename(final)
        fsync_folder(self._folder)
        for path in superfluous(self._folder, self._keep):
            _delete(path)


def superfluous(folder: Path, keep: CheckpointConfig) -> list[Path]:
    """The checkpoints in `folder` that no rule of `keep` keeps; damaged ones are left out."""
    complete = {}
    for path in list_checkpoints(folder):
        try:
            complete[path] = read_manifest(path)
        except (UserError, OSError):
            continue  # a damaged one, which the start of a run logs and leaves, or not readable now
    kept = set(list(complete)[-keep.keep_last :])
    if keep.keep_every_steps:
        kept |= {path for path, m in complete.items() if m.step % keep.keep_every_steps == 0}
    kept |= set(by_score(complete)[: keep.keep_best])
    return [path for path in complete if path not in kept]


def _delete(checkpoint: Path) -> None:
    """Removes an old checkpoint; a failure is logged, since the new one is on disk already."""
    doomed = checkpoint.with_name(f".deleting-{checkpoint.name}")
    try:
        checkpoint.rename(doomed)
        shutil.rmtree(doomed)
    except OSError as error:
        logger.warning("the old checkpoint %s was not deleted: %s", checkpoint, error)


class CheckpointNotSaved(Exception):
    """A checkpoint could not be written; the message says which and why."""

    def __init__(self, step: int, cause: Exception) -> None:
        super().__init__(f"the checkpoint of step {step} was not saved: {cause}")


class _Part(Config):
    """What a rank has written."""

    file: FileRecord
    ranges: dict[str, tuple[int, int, tuple[str, ...]]]
    """By parameter: (first element, elements, state keys)."""


def _write_part(folder: Path, name: str, fragments: Mapping[str, Fragment]) -> None:
    file = folder / name
    tensors = {
        tensor_key(key, parameter): tensor.contiguous()
        for parameter, fragment in fragments.items()
        for key, tensor in fragment.tensors.items()
    }
    save_file(tensors, file)
    file.chmod(0o644)  # safetensors sets 0600, which other users of a shared disk cannot read
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
    record = FileRecord(path=name, bytes=file.stat().st_size, sha256=file_sha256(file))
    ranges = {
        parameter: (fragment.start, fragment.length, tuple(fragment.tensors))
        for parameter, fragment in fragments.items()
    }
    part = _Part(file=record, ranges=ranges)
    write_atomic(folder / f"{name}{PART_SUFFIX}", part.model_dump_json())


def _write_file(path: Path, content: bytes) -> FileRecord:
    write_atomic(path, content)
    digest = hashlib.sha256(content).hexdigest()
    return FileRecord(path=path.name, bytes=len(content), sha256=digest)


def _wait_for_parts(folder: Path, tp_size: int, dp_size: int) -> list[_Part]:
    """What all ranks have written, by rank."""
    deadline = time.monotonic() + PEER_TIMEOUT_S
    names = [fragment_name(rank, tp_size, dp_size) for rank in range(tp_size * dp_size)]
    sidecars = [f"{name}{PART_SUFFIX}" for name in names]
    while missing := sorted({*sidecars} - (found := {*os.listdir(folder)})):
        for failed in sorted(name for name in found if name.endswith(FAILED_SUFFIX)):
            text = (folder / failed).read_text()
            raise OSError(f"a rank could not write its part: {text or failed}")
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"{len(missing)} of {len(sidecars)} parts, such as {missing[0]}, were not there "
                f"after {PEER_TIMEOUT_S:.0f} s"
            )
        time.sleep(POLL_S)
    return [_Part.model_validate_json((folder / name).read_bytes()) for name in sidecars]


def _report_failure(folder: Path, rank: int, error: Exception) -> None:
    reason = errno.errorcode.get(getattr(error, "errno", None) or 0, type(error).__name__)
    name = folder / f"rank{rank}-{reason}{FAILED_SUFFIX}"
    try:
        name.touch()  # an empty file needs no free block, the message may
        name.write_text(f"{type(error).__name__}: {error}")
    except OSError as second_error:
        logger.warning("rank 0 will time out waiting for this part: %s", second_error)
