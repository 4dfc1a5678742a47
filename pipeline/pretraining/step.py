"""The optimizer step of pretraining: rows with masks through `pipeline.engine.step.take_step`.

A micro-batches of a rank in a step, B rows of each, S tokens in a row, K label slots of a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.load import UserError
from model.adversarial import Adversary, row_keys
from model.adversarial_options import Alum, NoAdversary
from model.config import MLM_HEAD, ModelConfig
from model.heads import MaskedLanguageModel
from model.objectives.head_names import ADVERSARIAL, KEPT_SHARE, REPLACED_HEAD
from model.parallel.grid import Grid
from model.row_context import KnownRows, known_rows
from model.task_heads import LossAndCounts
from model.transfer import to_device
from pipeline.data.loader import StepBatch
from pipeline.engine.deepspeed_engine import Engine
from pipeline.engine.graphed_passes import HostInputs
from pipeline.engine.step import StepResult, count_labels, take_step
from pipeline.launch.stop_agreement import StopAgreement

NO_ADVERSARY = NoAdversary()


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
    known: KnownRows | None = None
    """What is known of the tokens."""
    is_causal: bool = False
    """Whether no token may see a later one."""
    sample_keys: Tensor | None = None
    """[B] int64: random words of rows whose replacements the network draws."""
    adversary: Adversary | None = None
    """None: no perturbation."""

    def forward(self, model: Any, device: torch.device) -> dict[str, LossAndCounts]:
        """(loss sum, number of labels, number predicted right), by head."""
        tokens, positions, labels = (
            to_device(tensor, device).long()
            for tensor in (self.tokens, self.positions, self.labels)
        )
        more = (self.dropout_key, self.known, self.is_causal)
        if self.adversary is not None:
            found: dict[str, LossAndCounts] = model(
                tokens, positions, labels, *more, adversary=self.adversary.on(device)
            )
            return found
        if self.sample_keys is None:
            return {MLM_HEAD: model(tokens, positions, labels, *more)}
        keys = to_device(self.sample_keys, device)
        results: dict[str, LossAndCounts] = model(tokens, positions, labels, *more, keys)
        return results

    def host_inputs(self, model: MaskedLanguageModel) -> HostInputs:
        """See `pipeline.engine.graphed_passes`."""
        assert self.adversary is None
        assert self.sample_keys is None
        tensors = {"tokens": self.tokens, "positions": self.positions, "labels": self.labels}
        seed = None
        if self.dropout_key is not None:
            tensors["dropout"], seed = model.encoder.dropout_seeds(self.dropout_key)
        return HostInputs(tensors, (self.known, self.is_causal), seed)

    def forward_of(self, model: Any, inputs: Mapping[str, Tensor]) -> dict[str, LossAndCounts]:
        """See `pipeline.engine.graphed_passes`."""
        rows = (inputs[name].long() for name in ("tokens", "positions", "labels"))
        more = (inputs.get("dropout"), self.known, self.is_causal)
        return {MLM_HEAD: model(*rows, *more)}


def pretraining_step(
    engine: Engine,
    batch: StepBatch,
    learning_rate: float,
    stop: StopAgreement | None = None,
    data_wait_s: float = 0.0,
    adversarial: Alum | NoAdversary = NO_ADVERSARY,
    seed: int = 0,
) -> StepResult:
    """Takes one optimizer step on `batch`; a collective.

    `adversarial` is that of its phase, whose noise depends on the `seed` of the run.
    Raises UserError for a global batch without a label.
    """
    pad_token_id = engine.model_config.pad_token_id
    micro_batches = split_into_micro_batches(batch, engine.model_config)
    weights = dict(batch.head_weights)
    if adversarial.type != "none":
        weights[ADVERSARIAL + MLM_HEAD] = adversarial.alpha
        keys = row_keys(seed, row_positions(batch, engine.grid))  # [A, B]
        micro_batches = [
            replace(micro_batch, adversary=Adversary(adversarial, mine))
            for micro_batch, mine in zip(micro_batches, keys, strict=True)
        ]
    has_label = dict.fromkeys(weights, batch.tokens.int() != pad_token_id)
    for head in (MLM_HEAD, ADVERSARIAL + MLM_HEAD):
        if head in weights:
            has_label[head] = batch.labels >= 0
    label_counts = count_labels(engine.grid, *has_label.values())
    result = take_step(
        engine, micro_batches, label_counts, weights, learning_rate, stop, data_wait_s
    )
    if not result.label_counts[MLM_HEAD]:
        raise UserError("a global batch without a token to predict: raise objective.mask_rate")
    return result


def row_positions(batch: StepBatch, grid: Grid) -> NDArray[np.int64]:
    """[A, B]: the positions in the run of the rows that this rank has of `batch`."""
    end, num_rows = batch.consumed_rows, batch.step.global_rows
    rows = np.arange(end - num_rows, end).reshape(-1, grid.dp_size, batch.tokens.shape[1])
    return rows[:, grid.dp_rank]


def split_into_micro_batches(batch: StepBatch, config: ModelConfig) -> list[MaskedMicroBatch]:
    """The A micro-batches of a rank in a step."""
    keys = [None] * len(batch.tokens) if batch.sample_keys is None else batch.sample_keys
    return [
        MaskedMicroBatch(
            tokens,
            positions,
            labels,
            dropout_key,
            known=known_rows(config, tokens, labels),
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
    if ADVERSARIAL + MLM_HEAD in result.losses:
        values |= {
            "mlm_loss": result.losses[MLM_HEAD],
            "adversarial_loss": result.losses[ADVERSARIAL + MLM_HEAD],
        }
    if REPLACED_HEAD in result.losses:
        values |= {
            "generator_loss": result.losses[MLM_HEAD],
            "discriminator_loss": result.losses[REPLACED_HEAD],
            "discriminator_accuracy": result.accuracies[REPLACED_HEAD],
            "kept_share": result.accuracies[KEPT_SHARE],
        }
    return values
