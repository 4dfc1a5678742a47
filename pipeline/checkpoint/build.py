"""Builds the manifest of a training state. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_prep.dataset.manifest import SpecialTokens
from pipeline.checkpoint.manifest import CheckpointManifest
from pipeline.checkpoint.records import ParameterRecord
from pipeline.checkpoint.start_record import StartRecord
from pipeline.data.position import RowWindow, Segment
from pipeline.optim.loss_scale import LossScale
from pipeline.validation.state import ValidationState

if TYPE_CHECKING:
    from model.parameters import ParameterSpec


@dataclass(frozen=True)
class Origin:
    """What all checkpoints of one launch share; the fields are those of the manifest."""

    config: dict[str, Any]
    seed: int
    tp_size: int
    dp_size: int
    zero_stage: int
    vocab_size: int
    data_fingerprint: str
    tokenizer_sha256: str
    versions: dict[str, str]
    state_keys: tuple[str, ...]
    network: dict[str, Any] | None = None
    special_tokens: SpecialTokens | None = None
    start: StartRecord | None = None


def build_manifest(
    origin: Origin,
    parameters: "Mapping[str, ParameterSpec]",
    *,
    step: int,
    optimizer_step: int,
    consumed_rows: int,
    segments: tuple[Segment, ...] = (),
    skipped: tuple[RowWindow, ...] = (),
    recent_losses: tuple[float, ...] = (),
    loss_scale: LossScale | None = None,
    tracking_run_id: str | None = None,
    heldout_loss: float | None = None,
    dev_error: float | None = None,
    validation: ValidationState | None = None,
) -> CheckpointManifest:
    """The manifest of a training state, without its files; arguments as its fields."""
    return CheckpointManifest(
        step=step,
        optimizer_step=optimizer_step,
        consumed_rows=consumed_rows,
        segments=segments,
        skipped=skipped,
        recent_losses=recent_losses,
        loss_scale=loss_scale,
        seed=origin.seed,
        tp_size=origin.tp_size,
        dp_size=origin.dp_size,
        zero_stage=origin.zero_stage,
        config=origin.config,
        network=origin.network,
        vocab_size=origin.vocab_size,
        data_fingerprint=origin.data_fingerprint,
        tokenizer_sha256=origin.tokenizer_sha256,
        special_tokens=origin.special_tokens,
        start=origin.start,
        tracking_run_id=tracking_run_id,
        heldout_loss=heldout_loss,
        dev_error=dev_error,
        validation=validation,
        versions=origin.versions,
        parameters={
            name: ParameterRecord(shape=spec.full_shape, partition_dim=spec.partition_dim)
            for name, spec in parameters.items()
        },
        state_keys=origin.state_keys,
    )
