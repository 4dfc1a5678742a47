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

    def forward(self, model: Any, device: torch.device) -> dict[str, LossAndCounts]:
        """(loss sum, number of labels, number predicted right), under the name of the only head."""
        tokens, positions, labels = (
            tensor.to(device, non_blocking=True).long()
            for tensor in (self.tokens, self.positions, self.labels)
        )
        more = (self.dropout_key, self.is_padded, self.is_causal)
        return {MLM_HEAD: model(tokens, positions, labels, *more)}


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
    micro_batches = split_into_micro_batches(batch, engine.module.config.pad_token_id)
    label_counts = count_labels(engine.grid, batch.labels)
    result = take_step(
        engine, micro_batches, label_counts, {MLM_HEAD: 1.0}, learning_rate, stop, data_wait_s
    )
    if not result.label_counts[MLM_HEAD]:
        raise UserError("a global batch without a token to predict: raise objective.mask_rate")
    return result


def split_into_micro_batches(batch: StepBatch, pad_token_id: int) -> list[MaskedMicroBatch]:
    """The A micro-batches of a rank in a step."""
    return [
        MaskedMicroBatch(
            tokens,
            positions,
            labels,
            dropout_key,
            is_padded=bool((tokens.numpy() == pad_token_id).any()),
            is_causal=batch.is_causal,
        )
        for tokens, positions, labels, dropout_key in zip(
            batch.tokens, batch.positions, batch.labels, batch.dropout_keys, strict=True
        )
    ]


def step_metrics(result: StepResult) -> dict[str, float]:
    """The values of a step under the names that they are recorded with."""
    return result.metrics() | {
        "accuracy": result.accuracies[MLM_HEAD],
        "masked_tokens": result.label_counts[MLM_HEAD],
    }
