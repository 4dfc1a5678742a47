"""The optimizer step of pretraining: rows with masks through `pipeline.engine.step.take_step`.

A micro-batches of a rank in a step, B rows of each, S tokens in a row, K label slots of a row.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from configs.load import UserError
from model.config import MLM_HEAD
from model.heads import MaskedLanguageModel
from model.objectives.head_names import KEPT_SHARE, REPLACED_HEAD
from model.task_heads import LossAndCounts
from pipeline.data.loader import StepBatch
from pipeline.engine.deepspeed_engine import Engine
from pipeline.engine.step import StepResult, count_labels, take_step
from pipeline.launch.stop_agreement import StopAgreement


@dataclass(frozen=True)
class MaskedMicroBatch:
    """Rows with masks, of any integer type."""

    tokens: Tensor
    """[B, S]."""
    positions: Tensor
    """[B, K]: positions of each row that predict a token."""
    labels: Tensor
    """[B, K]: the tokens that they predict; -100 in unused slots."""
    dropout_key: int | None = None
    """None: no dropout."""
    is_padded: bool | None = None
    """Whether there is padding among the tokens; None: not known."""
    is_causal: bool = False
    """Whether no token may see a later one."""
    sample_keys: Tensor | None = None
    """[B] int64: random words of rows whose replacements the network draws."""

    def forward(self, model: Any, device: torch.device) -> dict[str, LossAndCounts]:
        """(loss sum, number of labels, number predicted right), by head."""
        tokens, positions, labels = (
            tensor.to(device, non_blocking=True).long()
            for tensor in (self.tokens, self.positions, self.labels)
        )
        more = (self.dropout_key, self.is_padded, self.is_causal)
        if self.sample_keys is None:
            return {MLM_HEAD: model(tokens, positions, labels, *more)}
        keys = self.sample_keys.to(device, non_blocking=True)
        results: dict[str, LossAndCounts] = model(tokens, positions, labels, *more, keys)
        return results


def pretraining_step(
    engine: Engine,
    batch: StepBatch,
    learning_rate: float,
    stop: StopAgreement | None = None,
    data_wait_s: float = 0.0,
) -> StepResult:
    """Takes one optimizer step on `batch`; a collective.

    Raises UserError for a global batch without a label.
    """
    assert isinstance(engine.module, MaskedLanguageModel)
    pad_token_id = engine.module.config.pad_token_id
    micro_batches = split_into_micro_batches(batch, pad_token_id)
    has_label = dict.fromkeys(batch.head_weights, batch.tokens.int() != pad_token_id)
    has_label[MLM_HEAD] = batch.labels >= 0
    label_counts = count_labels(engine.grid, *has_label.values())
    weights = batch.head_weights
    result = take_step(
        engine, micro_batches, label_counts, weights, learning_rate, stop, data_wait_s
    )
    if not result.label_counts[MLM_HEAD]:
        raise UserError("a global batch without a token to predict: raise objective.mask_rate")
    return result


def split_into_micro_batches(batch: StepBatch, pad_token_id: int) -> list[MaskedMicroBatch]:
    """The A micro-batches of a rank in a step."""
    keys = [None] * len(batch.tokens) if batch.sample_keys is None else batch.sample_keys
    return [
        MaskedMicroBatch(
            tokens,
            positions,
            labels,
            dropout_key,
            is_padded=bool((tokens.numpy() == pad_token_id).any()),
            is_causal=batch.is_causal,
            sample_keys=sample_keys,
        )
        for tokens, positions, labels, dropout_key, sample_keys in zip(
            batch.tokens, batch.positions, batch.labels, batch.dropout_keys, keys, strict=True
        )
    ]


def step_metrics(result: StepResult) -> dict[str, float]:
    """The values of a step under the names that they are recorded with."""
    values = result.metrics() | {
        "accuracy": result.accuracies[MLM_HEAD],
        "masked_tokens": result.label_counts[MLM_HEAD],
    }
    if REPLACED_HEAD in result.losses:
        values |= {
            "generator_loss": result.losses[MLM_HEAD],
            "discriminator_loss": result.losses[REPLACED_HEAD],
            "discriminator_accuracy": result.accuracies[REPLACED_HEAD],
            "kept_share": result.accuracies[KEPT_SHARE],
        }
    return values
