"""The optimizer step of fine-tuning: all heads through `pipeline.engine.step.take_step`."""

from dataclasses import replace

import torch

from model.adversarial_options import FinetuningAdversary, NoAdversary, passes_per_step
from model.config import MLM_HEAD
from model.flops import training_flops
from model.objectives.head_names import ADVERSARIAL
from model.transfer import to_device
from pipeline.engine.deepspeed_engine import Engine
from pipeline.engine.step import StepResult, take_step
from pipeline.finetuning.adversary import adversarial_step, passes_of
from pipeline.finetuning.batches import FinetuneStep
from pipeline.finetuning.plan import FinetunePlan
from pipeline.launch.stop_agreement import StopAgreement

NO_ADVERSARY = NoAdversary()


def finetuning_step(
    engine: Engine,
    batch: FinetuneStep,
    weights: dict[str, float],
    learning_rate: float,
    stop: StopAgreement | None = None,
    data_wait_s: float = 0.0,
    adversarial: FinetuningAdversary = NO_ADVERSARY,
    seed: int = 0,
) -> StepResult:
    """Takes one step on the sum of the heads' mean losses times `weights`; a collective.

    The first perturbations of `adversarial` training depend on the `seed` of the run.
    """
    step = adversarial_step(
        *(batch.micro_batches, batch.label_counts, weights, adversarial, seed),
        *(engine.grid, engine.model_config),
    )
    # Every rank knows the rows of all ranks, so the counts need no communication.
    counts = [step.label_counts[head] for head in step.weights]
    label_counts = to_device(torch.tensor(counts, dtype=torch.float64), engine.grid.device)
    result = take_step(
        engine, step.micro_batches, label_counts, step.weights, learning_rate, stop, data_wait_s
    )
    passes = passes_of(adversarial)
    labels = {head: count // passes for head, count in result.label_counts.items()}
    return replace(result, label_counts=labels)


def step_metrics(result: StepResult) -> dict[str, float]:
    """The values of a step under the names that they are recorded with."""
    losses = {
        f"adversarial_loss/{name.removeprefix(ADVERSARIAL)}"
        if name.startswith(ADVERSARIAL)
        else f"loss/{name}": value
        for name, value in result.losses.items()
    }
    return result.metrics() | losses


def step_flops(plan: FinetunePlan, batch: FinetuneStep) -> int:
    """Operations of the matrix products of a step, padding included and task heads left out."""
    vocab_size = plan.start.vocab_size
    masked_tokens = batch.label_counts.get(MLM_HEAD, 0)
    encoder = sum(
        training_flops(plan.model, vocab_size, rows, width, masked_tokens=0)
        for rows, width in batch.widths
    )
    plain = encoder + training_flops(plan.model, vocab_size, 0, 0, masked_tokens)
    return round(plain * passes_per_step(plan.config.adversarial))
