"""The optimizer step of fine-tuning: all heads through `pipeline.engine.step.take_step`."""

import torch

from model.config import MLM_HEAD
from model.flops import training_flops
from pipeline.engine.deepspeed_engine import Engine
from pipeline.engine.step import StepResult, take_step
from pipeline.finetuning.batches import FinetuneStep
from pipeline.finetuning.plan import FinetunePlan
from pipeline.launch.stop_agreement import StopAgreement


def finetuning_step(
    engine: Engine,
    batch: FinetuneStep,
    weights: dict[str, float],
    learning_rate: float,
    stop: StopAgreement | None = None,
    data_wait_s: float = 0.0,
) -> StepResult:
    """Takes one step on the sum of the heads' mean losses times `weights`; a collective."""
    # Every rank knows the rows of all ranks, so the counts need no communication.
    counts = [batch.label_counts[head] for head in weights]
    label_counts = torch.tensor(counts, dtype=torch.float64).to(engine.grid.device)
    return take_step(
        engine, batch.micro_batches, label_counts, weights, learning_rate, stop, data_wait_s
    )


def step_metrics(result: StepResult) -> dict[str, float]:
    """The values of a step under the names that they are recorded with."""
    return result.metrics() | {f"loss/{name}": value for name, value in result.losses.items()}


def step_flops(plan: FinetunePlan, batch: FinetuneStep) -> int:
    """Operations of the matrix products of a step, padding included and task heads left out."""
    vocab_size = plan.start.vocab_size
    masked_tokens = batch.label_counts.get(MLM_HEAD, 0)
    encoder = sum(
        training_flops(plan.model, vocab_size, rows, width, masked_tokens=0)
        for rows, width in batch.widths
    )
    return encoder + training_flops(plan.model, vocab_size, 0, 0, masked_tokens)
