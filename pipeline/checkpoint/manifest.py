"""The manifest of a checkpoint: its schema, its files and their hashes. Imports no torch."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from configs.load import Config, UserError
from pipeline.data.position import RowWindow, Segment
from pipeline.optim.loss_scale import LossScale
from pipeline.run import run_folder
from pipeline.run.config import RunConfig

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"

MOMENTS = ("exp_avg", "exp_avg_sq")
STATE_KEYS = ("weight", *MOMENTS)
"""What a checkpoint holds of every trained parameter."""


class FileRecord(Config):
    """A file of a checkpoint."""

    path: str
    """Name inside the checkpoint's folder."""
    bytes: int
    """Size."""
    sha256: str
    """Hash of the content (hex)."""


class ParameterRecord(Config):
    """A parameter over all ranks."""

    shape: tuple[int, ...]
    """Full shape, without vocabulary padding."""
    partition_dim: int | None
    """The dimension that tensor-parallel ranks share out; None: every rank holds all of it."""


class CheckpointManifest(Config):
    """Everything that says what a checkpoint is and what made it."""

    format_version: int = FORMAT_VERSION
    step: int
    """Optimizer steps tried, skipped ones included."""
    optimizer_step: int
    """Optimizer steps taken: Adam's own count for its bias correction."""
    consumed_rows: int
    """The position in the row stream."""
    segments: tuple[Segment, ...]
    """Mixture weights of all phases, those to come included."""
    skipped: tuple[RowWindow, ...] = ()
    """Rows that the run passes over, because training went wrong on them."""
    recent_losses: tuple[float, ...] = ()
    """Losses of the last steps, by which a loss spike is told."""
    loss_scale: LossScale | None = None
    """The factor on fp16 losses."""
    seed: int
    """The seed of the run."""
    tp_size: int
    """Tensor-parallel ranks that wrote it."""
    dp_size: int
    """Data-parallel ranks that wrote it."""
    zero_stage: int
    """DeepSpeed ZeRO stage that wrote it."""
    config: dict[str, Any]
    """The whole config of the run."""
    vocab_size: int
    """Vocabulary without padding."""
    data_fingerprint: str
    """Fingerprint of the data set's manifest."""
    tokenizer_sha256: str
    """Hash of the tokenizer that made the data."""
    tracking_run_id: str | None = None
    """MLflow's id of the run."""
    heldout_loss: float | None = None
    """Latest held-out loss, nats per masked token."""
    versions: dict[str, str]
    """Versions of the packages that wrote it."""
    parameters: dict[str, ParameterRecord]
    """Every parameter, by name."""
    state_keys: tuple[str, ...]
    """What is held of each parameter: "weight" and the optimizer's moments."""
    files: tuple[FileRecord, ...] = ()
    """The tensor files, one a tensor-parallel rank in rank order."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every byte was verified."""

    path: Path
    manifest: CheckpointManifest


def tensor_key(state_key: str, parameter: str) -> str:
    """The name of a tensor in a checkpoint's files."""
    return f"{state_key}/{parameter}"


def checkpoint_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of `step` is."""
    return folder / f"step-{step:08d}"


def part_name(tp_rank: int, tp_size: int) -> str:
    """The tensor file of one tensor-parallel rank."""
    return f"state-tp{tp_rank:03d}-of-{tp_size:03d}.safetensors"


def find_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint in `folder` that verifies, and a message for each damaged newer one."""
    problems: list[str] = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            return Checkpoint(path, verify(path)), problems
        except UserError as error:
            problems.append(str(error))
    return None, problems


def verify(path: Path) -> CheckpointManifest:
    """The manifest of the checkpoint at `path`, after every file's size and hash were compared.

    Raises UserError that names the first file that is missing or differs.
    """
    manifest = read_manifest(path)
    for record in manifest.files:
        file = path / record.path
        size = file.stat().st_size if file.is_file() else None
        if size != record.bytes:
            raise UserError(
                f"{file}: damaged checkpoint: {record.bytes} bytes expected, "
                f"{'no such file' if size is None else f'{size} found'}"
            )
        if file_sha256(file) != record.sha256:
            raise UserError(f"{file}: damaged checkpoint: the content does not match its sha256")
    return manifest


def read_manifest(path: Path) -> CheckpointManifest:
    """The manifest of the checkpoint at `path`; its own hash is checked, its files are not."""
    file = path / MANIFEST_NAME
    try:
        tree = json.loads(file.read_bytes())
        if not isinstance(tree, dict):
            raise ValueError("not a mapping")
        expected = tree.pop("sha256", None)
        if expected != tree_sha256(tree):
            raise ValueError("the content does not match its sha256")
        version = tree.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(f"format version {version}, this program reads {FORMAT_VERSION}")
        return CheckpointManifest.model_validate(tree)
    except FileNotFoundError:
        raise UserError(f"{file}: not a checkpoint: no such file") from None
    except (OSError, ValueError, ValidationError) as error:
        raise UserError(f"{file}: damaged checkpoint: {error}") from None


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content (hex)."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tree_sha256(tree: dict[str, Any]) -> str:
    """The sha256 of a JSON tree in canonical form (hex)."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def newest_step(config: RunConfig) -> int:
    """The step of the newest checkpoint by name, 0 when there is none."""
    folder = run_folder.checkpoints_folder(config)
    manifests = folder.glob("step-*/manifest.json")
    return max((int(path.parent.name.removeprefix("step-")) for path in manifests), default=0)
