"""The manifest of a checkpoint: its schema and its parser. Imports no torch.

A checkpoint is a folder ``step-00001234`` with the tensor files, the ``tokenizer.json`` of the data
and a ``manifest.json``, which names every file with its size and sha256 and is written last. Its
tensors are in one of two forms:

1. one file per tensor-parallel rank, with its whole shards: version 0.1.0, averages of checkpoints;
2. one file per rank, with what that rank holds, and ``fragments.json``, which says what is where.

Modules outside of this package do not depend on the format.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from configs.load import Config, UserError
from data_prep.dataset.files import first_error, is_missing, parse_json, read_regular, with_name
from data_prep.dataset.manifest import SpecialTokens
from data_prep.dataset.verify import file_damage
from pipeline.checkpoint import records
from pipeline.checkpoint.records import Count, FileRecord, ParameterRecord, Ranks, Size
from pipeline.checkpoint.start_record import StartRecord
from pipeline.data.position import RowWindow, Segment
from pipeline.optim.loss_scale import LossScale
from pipeline.validation.state import ValidationState

FORMAT_VERSION = 1
"""Of whole shards."""
FRAGMENTED_VERSION = 2
"""Of fragments."""
MANIFEST_NAME = "manifest.json"
TOKENIZER_NAME = "tokenizer.json"
NULL_FIELDS = ("loss_scale", "tracking_run_id", "heldout_loss")
"""Fields that are in the file also where they are None; later ones are left out then."""


class CheckpointManifest(Config):
    """What a checkpoint is and what made it."""

    format_version: int = FORMAT_VERSION
    step: Count
    """Optimizer steps tried, skipped ones included."""
    optimizer_step: Count
    """Optimizer steps taken: Adam's own count for its bias correction; 0 where none is kept."""
    consumed_rows: Count
    """The position in the row stream."""
    segments: tuple[Segment, ...]
    """Mixture weights of all phases, future ones included."""
    skipped: tuple[RowWindow, ...] = ()
    """Rows that the run skips because training became unstable on them."""
    recent_losses: tuple[float, ...] = ()
    """Losses of the last steps, which loss spikes are detected by."""
    loss_scale: LossScale | None = None
    """The factor on fp16 losses."""
    seed: int
    """The seed of the run."""
    tp_size: Ranks
    """Tensor-parallel ranks that wrote it."""
    dp_size: Ranks
    """Data-parallel ranks that wrote it."""
    zero_stage: Annotated[int, Field(ge=0, le=3)]
    """DeepSpeed ZeRO stage that wrote it."""
    config: dict[str, Any]
    """The whole config of the run."""
    network: dict[str, Any] | None = None
    """The config of the model, where `config` does not hold it: of a later phase, or fine-tuned."""
    vocab_size: Size
    """Vocabulary without padding."""
    data_fingerprint: str
    """Fingerprint of the data set's manifest."""
    tokenizer_sha256: str
    """Hash of the tokenizer that made the data."""
    special_tokens: SpecialTokens | None = None
    """Ids of that tokenizer's special tokens; None up to version 0.1.0: RoBERTa's."""
    tracking_run_id: str | None = None
    """MLflow's id of the run."""
    start: StartRecord | None = None
    """The weights that the run started from; None: random ones, or up to version 0.1.0."""
    heldout_loss: float | None = None
    """Held-out loss of this step, nats per masked token; None where it was not measured.

    Up to version 0.1.0 the latest one, perhaps of an earlier step."""
    dev_error: float | None = None
    """Error of this step on the dev files of fine-tuning: 1 - the mean main metric of the tasks."""
    validation: ValidationState | None = None
    """The evaluations up to this step; None: there was none, or up to version 0.1.0."""
    averaged: tuple[records.AveragedCheckpoint, ...] | None = None
    """The checkpoints whose average it is; None: it was trained."""
    versions: dict[str, str]
    """Versions of the packages that wrote it."""
    parameters: dict[str, ParameterRecord]
    """Every parameter, by name."""
    state_keys: tuple[str, ...]
    """What is held of each parameter: "weight" and the optimizer's moments."""
    files: tuple[FileRecord, ...] = ()
    """The tensor files, one for each (tensor-parallel) rank in rank order."""
    fragments: FileRecord | None = None
    """The table of what is in which tensor file; None: whole shards."""
    tokenizer: FileRecord | None = None
    """The tokenizer that made the data; None where the checkpoint carries none."""
    sha256: str | None = None
    """Hash of all other fields (hex); None until it is written."""

    @model_validator(mode="after")
    def _numbers_agree(self) -> "CheckpointManifest":
        others = [record for record in (self.fragments, self.tokenizer) if record]
        num_files = self.tp_size * (self.dp_size if self.fragments else 1)
        errors = list(records.contradictions(self.files, others, self.parameters, num_files))
        if (self.format_version == FRAGMENTED_VERSION) != (self.fragments is not None):
            errors.append(f"format version {self.format_version} and fragments do not agree")
        if errors:
            raise ValueError("; ".join(errors))
        return self

    @property
    def model_config_tree(self) -> dict[str, Any]:
        """The config of the model that the parameters belong to."""
        # Fine-tuned checkpoints of older versions keep it inside of `config`.
        tree = self.network or self.config.get("network") or self.config["model"]
        return dict(tree)

    @property
    def all_files(self) -> tuple[FileRecord, ...]:
        """The tensor files, their table and the tokenizer."""
        return (*self.files, *(record for record in (self.fragments, self.tokenizer) if record))

    @property
    def selection_score(self) -> float | None:
        """What the best checkpoints are chosen by, the lowest first; None: not evaluated."""
        # Fine-tuned checkpoints of older versions keep the dev error as `heldout_loss`.
        return self.heldout_loss if self.dev_error is None else self.dev_error


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint and its manifest."""

    path: Path
    manifest: CheckpointManifest


def manifest_json(manifest: CheckpointManifest) -> str:
    """The content of ``manifest.json``, its own hash included."""
    tree = manifest.model_dump(mode="json", exclude={"sha256"})
    tree = {k: v for k, v in tree.items() if v is not None or k in NULL_FIELDS}
    return json.dumps({**tree, "sha256": tree_sha256(tree)}, indent=1)


def read_manifest(path: Path) -> CheckpointManifest:
    """The manifest of the checkpoint at `path`; its own hash is checked, its files are not.

    Raises UserError where there is none, and where it is damaged or has a different format version;
    OSError where it cannot be read, which says nothing about the checkpoint.
    """
    file = path / MANIFEST_NAME
    try:
        tree = parse_json(read_regular(file))
        expected = tree.pop("sha256", None)
        if expected != tree_sha256(tree):
            raise ValueError("the content does not match its sha256")
        version = tree.get("format_version")
        if version not in (FORMAT_VERSION, FRAGMENTED_VERSION):
            raise ValueError(
                f"format version {version}, this program reads {FORMAT_VERSION} and "
                f"{FRAGMENTED_VERSION}"
            )
        return CheckpointManifest.model_validate({**tree, "sha256": expected})
    except OSError as error:
        if not is_missing(error):
            raise with_name(error, file) from None
        raise UserError(f"{file}: not a checkpoint: no such file") from None
    except ValidationError as error:
        raise UserError(f"{file}: damaged checkpoint: {first_error(error)}") from None
    except ValueError as error:
        raise UserError(f"{file}: damaged checkpoint: {error}") from None


def verify(path: Path) -> CheckpointManifest:
    """The manifest of the checkpoint at `path`, after every file's size and hash were compared.

    Raises UserError that names the first file that is missing or differs, and OSError where one
    cannot be read.
    """
    manifest = read_manifest(path)
    problem = first_problem(path, manifest.all_files)
    if problem:
        raise UserError(problem)
    return manifest


def first_problem(path: Path, files: Sequence[FileRecord]) -> str | None:
    """The first of some files of the checkpoint at `path` that is missing or differs, and how."""
    for record in files:
        problem = file_damage(path, record.path, record.bytes, record.sha256)
        if problem:
            return f"{path / record.path}: damaged checkpoint: {problem}"
    return None


def list_checkpoints(folder: Path) -> list[Path]:
    """The folders of all checkpoints in `folder` by ascending step, damaged ones included."""
    return sorted(folder.glob("step-*"), key=_step_of)


def find_checkpoint(
    folder: Path, before_step: int | None = None
) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint in `folder` that verifies, and a message for each damaged newer one.

    `before_step` takes only those of smaller steps.
    """
    problems: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        if before_step is not None and _step_of(path) >= before_step:
            continue
        try:
            return Checkpoint(path, verify(path)), problems
        except UserError as error:
            problems.append(str(error))
    return None, problems


def newest_step(folder: Path) -> int:
    """The step of the newest checkpoint in `folder` by name, 0 when there is none."""
    paths = [path for path in list_checkpoints(folder) if (path / MANIFEST_NAME).exists()]
    return _step_of(paths[-1]) if paths else 0


def _step_of(path: Path) -> int:
    """The step in the name of a checkpoint's folder, -1 where it has none."""
    number = path.name.removeprefix("step-")
    return int(number) if number.isdecimal() else -1


def checkpoint_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of `step` is."""
    return folder / f"step-{step:08d}"


def part_name(tp_rank: int, tp_size: int) -> str:
    """The tensor file of one tensor-parallel rank, with whole shards."""
    return f"state-tp{tp_rank:03d}-of-{tp_size:03d}.safetensors"


def fragment_name(rank: int, tp_size: int, dp_size: int) -> str:
    """The tensor file of one rank."""
    dp_rank, tp_rank = divmod(rank, tp_size)
    return f"state-tp{tp_rank:03d}-of-{tp_size:03d}-dp{dp_rank:05d}-of-{dp_size:05d}.safetensors"


def tensor_key(state_key: str, parameter: str) -> str:
    """The name of a tensor in a checkpoint's files."""
    return f"{state_key}/{parameter}"


def tree_sha256(tree: dict[str, Any]) -> str:
    """The sha256 of a JSON tree in canonical form (hex)."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
