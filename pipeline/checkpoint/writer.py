"""Writes checkpoints in the background so that none is ever half there.

The training thread copies the state to host memory; a thread writes, syncs and hashes it while
training goes on. That thread uses no collective: ranks meet through files in the unfinished folder
``.saving-...``, and rank 0 renames it to ``step-...`` when all parts are there.
"""

import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from configs.load import UserError
from data_prep.dataset.atomic import fsync_folder, write_atomic
from model.parallel.grid import Grid
from pipeline.checkpoint.manifest import (
    MANIFEST_NAME,
    CheckpointManifest,
    FileRecord,
    checkpoint_folder,
    file_sha256,
    part_name,
    read_manifest,
    tree_sha256,
)
from pipeline.run.config import CheckpointConfig

PEER_TIMEOUT_S = 1800.0
"""How long rank 0 waits for the parts of the other ranks before it gives a save up."""


class Saver:
    """Writes checkpoints of one run in the background, one at a time."""

    def __init__(self, folder: Path, keep: CheckpointConfig, grid: Grid) -> None:
        """A collective: all ranks of a launch agree on a name for their unfinished folders."""
        if grid.rank == 0:  # before the broadcast, behind which others may begin to write
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in (*folder.glob(".saving-*"), *folder.glob(".deleting-*")):
                shutil.rmtree(leftover)
        nonce = [secrets.token_hex(4)]
        dist.broadcast_object_list(nonce, src=0)
        self._folder = folder
        self._keep = keep
        self._rank = grid.rank
        self._tp_rank = grid.tp_rank
        self._writes = grid.dp_rank == 0
        self._nonce = nonce[0]
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def save(
        self, manifest: CheckpointManifest, snapshot: Callable[[], Mapping[str, torch.Tensor]]
    ) -> None:
        """Starts writing the host tensors that `snapshot` gives as one checkpoint.

        Waits for the save before it, if that is still under way, before it calls `snapshot` (a
        collective), which may then use the memory of the snapshot before.
        """
        self._wait()
        tensors = snapshot()
        if not self._writes:
            return
        self._thread = threading.Thread(
            target=self._run, args=(manifest, dict(tensors)), name="checkpoint-writer"
        )
        self._thread.start()

    def report_errors(self, say: Callable[[str], None]) -> None:
        """Tells of a save that failed since the last call; training goes on to the next save."""
        error, self._error = self._error, None
        if error is not None:
            say(f"warning: {error}; the checkpoints before it are whole, training goes on")

    def finish(self) -> None:
        """Returns when all is on disk; raises UserError if the last save failed."""
        self._wait()
        if self._error is not None:
            raise UserError(
                f"{self._error}; mend that and run the same command again: it goes on from the "
                "newest whole checkpoint"
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
                self._publish(unfinished, manifest.model_copy(update={"files": files}))
        except Exception as error:
            self._error = CheckpointNotSaved(manifest.step, error)
            _tell_peers(unfinished, self._tp_rank, error)
            if self._rank == 0:
                shutil.rmtree(unfinished, ignore_errors=True)

    def _publish(self, unfinished: Path, manifest: CheckpointManifest) -> None:
        for sidecar in unfinished.glob("*.part.json"):
            sidecar.unlink()
        tree = manifest.model_dump(mode="json")
        tree["sha256"] = tree_sha256(tree)
        write_atomic(unfinished / MANIFEST_NAME, json.dumps(tree, indent=1))
        final = checkpoint_folder(self._folder, manifest.step)
        if final.exists():  # a damaged one of the same step, passed over at the start
            damaged = final.with_name(f"damaged-{final.name}-{self._nonce}")
            final.rename(damaged)
        unfinished.rename(final)
        fsync_folder(self._folder)
        for path in superfluous(self._folder, self._keep):
            doomed = path.with_name(f".deleting-{path.name}")
            path.rename(doomed)
            shutil.rmtree(doomed)


def superfluous(folder: Path, keep: CheckpointConfig) -> list[Path]:
    """The checkpoints in `folder` that no rule of `keep` keeps; what is no checkpoint stays."""
    complete = {}
    for path in sorted(folder.glob("step-*")):
        try:
            complete[path] = read_manifest(path)
        except UserError:
            continue  # a damaged one, which the start of a run reports and leaves
    kept = set(list(complete)[-keep.keep_last :])
    if keep.keep_every_steps:
        kept |= {path for path, m in complete.items() if m.step % keep.keep_every_steps == 0}
    scored = {path: m.heldout_loss for path, m in complete.items() if m.heldout_loss is not None}
    kept |= set(sorted(scored, key=lambda path: scored[path])[: keep.keep_best])
    return [path for path in complete if path not in kept]


class CheckpointNotSaved(Exception):
    """A checkpoint could not be written; says which and why."""

    def __init__(self, step: int, cause: Exception) -> None:
        super().__init__(f"the checkpoint of step {step} was not saved: {cause}")


def _write_part(
    folder: Path, tp_rank: int, tp_size: int, tensors: Mapping[str, torch.Tensor]
) -> None:
    file = folder / part_name(tp_rank, tp_size)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    file.chmod(0o644)  # safetensors makes it 0600, which colleagues on a shared disk cannot read
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
    record = FileRecord(path=file.name, bytes=file.stat().st_size, sha256=file_sha256(file))
    write_atomic(folder / f"{file.name}.part.json", record.model_dump_json())


def _wait_for_parts(folder: Path, tp_size: int) -> tuple[FileRecord, ...]:
    deadline = time.monotonic() + PEER_TIMEOUT_S
    sidecars = [folder / f"{part_name(rank, tp_size)}.part.json" for rank in range(tp_size)]
    while not all(sidecar.exists() for sidecar in sidecars):
        for failed in folder.glob("*.failed"):
            raise OSError(f"another rank could not write its part: {failed.read_text()}")
        if time.monotonic() > deadline:
            missing = [sidecar.name for sidecar in sidecars if not sidecar.exists()]
            raise TimeoutError(f"no {missing} after {PEER_TIMEOUT_S:.0f} s")
        time.sleep(0.02)
    return tuple(FileRecord.model_validate_json(sidecar.read_bytes()) for sidecar in sidecars)


def _tell_peers(folder: Path, tp_rank: int, error: Exception) -> None:
    name = folder / f"tp{tp_rank}.failed"
    try:
        name.touch()  # an empty file needs no free block, the message may
        name.write_text(f"{type(error).__name__}: {error}")
    except OSError as second_error:
        print(f"rank 0 will time out waiting for this part: {second_error}", flush=True)
