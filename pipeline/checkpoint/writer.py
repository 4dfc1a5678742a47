"""Writes checkpoints in the background; a checkpoint is either complete or not there.

The training thread copies the state to host memory; a second thread writes, syncs and hashes it
while training continues. That thread uses no collective: ranks coordinate through files in the
unfinished folder ``.saving-...``, and rank 0 renames it to ``step-...`` when all parts are there.
"""

import hashlib
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from configs.load import UserError
from data_prep.dataset.atomic import fsync_folder, write_atomic
from data_prep.dataset.manifest import file_sha256
from model.parallel.grid import Grid
from model.parallel.json_exchange import broadcast_json
from pipeline.checkpoint.best import by_score
from pipeline.checkpoint.config import CheckpointConfig
from pipeline.checkpoint.manifest import (
    MANIFEST_NAME,
    TOKENIZER_NAME,
    CheckpointManifest,
    checkpoint_folder,
    list_checkpoints,
    manifest_json,
    part_name,
    read_manifest,
)
from pipeline.checkpoint.records import FileRecord

PEER_TIMEOUT_S = 1800.0
"""How long rank 0 waits for the parts of the other ranks before a save counts as failed."""

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
        self._writes = grid.dp_rank == 0
        self._tokenizer = tokenizer.read_bytes() if tokenizer else None
        self._nonce = nonce
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def save(
        self, manifest: CheckpointManifest, snapshot: Callable[[], Mapping[str, torch.Tensor]]
    ) -> None:
        """Starts writing the host tensors that `snapshot` returns as one checkpoint.

        Waits until the previous save is finished before it calls `snapshot` (a collective), which
        may then reuse the memory of the previous snapshot.
        """
        self._wait()
        tensors = snapshot()
        if not self._writes:
            return
        self._thread = threading.Thread(
            target=self._run, args=(manifest, dict(tensors)), name="checkpoint-writer"
        )
        self._thread.start()

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

    def _run(self, manifest: CheckpointManifest, tensors: dict[str, torch.Tensor]) -> None:
        unfinished = self._folder / f".saving-{manifest.step:08d}-{self._nonce}"
        try:
            unfinished.mkdir(parents=True, exist_ok=True)
            _write_part(unfinished, self._tp_rank, manifest.tp_size, tensors)
            if self._rank == 0:
                files = _wait_for_parts(unfinished, manifest.tp_size)
                tokenizer = self._write_tokenizer(unfinished)
                written = {"files": files, "tokenizer": tokenizer}
                self._publish(unfinished, manifest.model_copy(update=written))
        except Exception as error:
            self._error = CheckpointNotSaved(manifest.step, error)
            _report_failure(unfinished, self._tp_rank, error)
            if self._rank == 0:
                shutil.rmtree(unfinished, ignore_errors=True)

    def _write_tokenizer(self, unfinished: Path) -> FileRecord | None:
        if self._tokenizer is None:
            return None
        write_atomic(unfinished / TOKENIZER_NAME, self._tokenizer)
        sha256 = hashlib.sha256(self._tokenizer).hexdigest()
        return FileRecord(path=TOKENIZER_NAME, bytes=len(self._tokenizer), sha256=sha256)

    def _publish(self, unfinished: Path, manifest: CheckpointManifest) -> None:
        for sidecar in unfinished.glob("*.part.json"):
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
        except UserError:
            continue  # a damaged one, which the start of a run logs and leaves
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


def _write_part(
    folder: Path, tp_rank: int, tp_size: int, tensors: Mapping[str, torch.Tensor]
) -> None:
    file = folder / part_name(tp_rank, tp_size)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    file.chmod(0o644)  # safetensors sets 0600, which other users of a shared disk cannot read
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
    record = FileRecord(path=file.name, bytes=file.stat().st_size, sha256=file_sha256(file))
    write_atomic(folder / f"{file.name}.part.json", record.model_dump_json())


def _wait_for_parts(folder: Path, tp_size: int) -> tuple[FileRecord, ...]:
    deadline = time.monotonic() + PEER_TIMEOUT_S
    sidecars = [folder / f"{part_name(rank, tp_size)}.part.json" for rank in range(tp_size)]
    while not all(sidecar.exists() for sidecar in sidecars):
        for failed in folder.glob("*.failed"):
            raise OSError(f"a rank could not write its part: {failed.read_text()}")
        if time.monotonic() > deadline:
            missing = [sidecar.name for sidecar in sidecars if not sidecar.exists()]
            raise TimeoutError(f"no {missing} after {PEER_TIMEOUT_S:.0f} s")
        time.sleep(0.02)
    return tuple(FileRecord.model_validate_json(sidecar.read_bytes()) for sidecar in sidecars)


def _report_failure(folder: Path, tp_rank: int, error: Exception) -> None:
    name = folder / f"tp{tp_rank}.failed"
    try:
        name.touch()  # an empty file needs no free block, the message may
        name.write_text(f"{type(error).__name__}: {error}")
    except OSError as second_error:
        logger.warning("rank 0 will time out waiting for this part: %s", second_error)
