"""The work of a fine-tuning run: what its micro-batches compute, how long, and other layouts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from configs.load import ConfigError
from model.adversarial_options import passes_per_step
from model.config import MLM_HEAD
from model.flops import training_flops
from model.grid_check import check_grid
from model.size import count_matrix_parameters
from pipeline.finetuning.adversary import passes_of
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.examples import RowLengths
from pipeline.finetuning.memory import (
    count_finetuned,
    estimate_finetuning,
    trained_layers,
)
from pipeline.finetuning.padding import width_of
from pipeline.finetuning.plan import FinetunePlan
from pipeline.planning.data_parallel import Rank, Trained
from pipeline.planning.layouts import parallel_of, parallel_overrides, recomputation
from pipeline.planning.pretraining import count_tensors, update_flops
from pipeline.planning.search import Outcome, Variant
from pipeline.planning.step_time import Rates, StepTime, micro_batch_time, update_time
from pipeline.planning.work import NetworkPass
from pipeline.run.config import ZERO_3_COMPILED
from pipeline.run.memory import MemoryEstimate


@dataclass(frozen=True)
class HeadWork:
    """Micro-batches of one head in a step, all of one size."""

    name: str
    rows: int
    """Of a micro-batch."""
    width: int
    """Tokens of a row with padding, in the mean over micro-batches."""
    micro_batches: int
    """Of all data-parallel ranks."""


@dataclass(frozen=True)
class StepWork:
    """The steps of a run that train on the same heads."""

    num_steps: int
    heads: tuple[HeadWork, ...]

    @property
    def micro_batches(self) -> int:
        """Of a step, of all data-parallel ranks."""
        return sum(head.micro_batches for head in self.heads)


def steps_of(plan: FinetunePlan) -> list[StepWork]:
    """The steps of the run, by the tasks that they train on."""
    config, order = plan.config, plan.task_order
    names = tuple(config.tasks)
    together = [names] if order.sampling.type == "all" else [(name,) for name in names]
    steps = []
    for tasks in together:
        heads = [head for name in tasks for head in _task_batches(plan, name)]
        num_steps = order.num_batches(tasks[0])
        if num_steps:
            steps.append(StepWork(num_steps, (*heads, *_mlm_batches(plan))))
    return steps


def _task_batches(plan: FinetunePlan, name: str) -> Iterator[HeadWork]:
    task = plan.config.tasks[name]
    size = plan.config.micro_rows // task.rows_per_example
    for examples, number in _parts(task.examples_per_step, size):
        width = mean_width(plan.train[name].longest_rows, examples, plan.model.max_row_tokens)
        yield HeadWork(name, examples * task.rows_per_example, round(width), number)


def _mlm_batches(plan: FinetunePlan) -> Iterator[HeadWork]:
    if plan.mlm is not None and plan.config.mlm is not None:
        for rows, number in _parts(plan.config.mlm.rows_per_step, plan.config.micro_rows):
            yield HeadWork(MLM_HEAD, rows, plan.mlm.manifest.row_tokens, number)


def _parts(total: int, size: int) -> list[tuple[int, int]]:
    """(size, number) of the parts of `total`: those of `size`, and what is left."""
    parts = [(size, total // size), (total % size, 1)]
    return [(each, number) for each, number in parts if each and number]


def mean_width(longest: RowLengths, examples: int, max_row_tokens: int) -> float:
    """The mean width of micro-batches of so many random `examples`."""
    below = np.append(0.0, np.cumsum(longest.examples) / longest.examples.sum())
    shares = np.diff(below**examples)  # the probability that the longest row is of that length
    widths = [width_of(int(tokens), max_row_tokens) for tokens in longest.tokens]
    return float(np.dot(widths, shares))


def finetuned_of(plan: FinetunePlan) -> Trained:
    """What the run trains, with the layout of its config."""
    config, found = plan.config, count_finetuned(plan)
    share = trained_layers(plan.model) / plan.model.num_layers
    in_trained = found.trained_in_matrices / count_matrix_parameters(plan.model)
    return Trained(
        precision=config.precision,
        value_bytes=config.value_bytes,
        compute=config.compute,
        vocab_size=config.compute.padded_vocab_size(plan.start.vocab_size),
        parameters=found.trained,
        in_matrices=found.trained_in_matrices,
        num_tensors=round(count_tensors(plan.model) * share) + 2 * len(config.tasks),
        optimizer=config.optimizer,
        zero_stage=config.parallel.zero_stage,
        gather_ranks=config.parallel.zero_gather_ranks,
        reduces_once=config.parallel.reduce_gradients == "step",
        offloads=config.parallel.offload_optimizer,
        has_flat_gradients=config.has_flat_gradients,
        update_flops=in_trained * update_flops(config.optimizer, [plan.model]),
    )


def run_time(plan: FinetunePlan, num_nodes: int, gpus_per_node: int, rates: Rates) -> StepTime:
    """Seconds of all steps on `num_nodes` x `gpus_per_node` ranks; `plan` is for these."""
    rank = Rank(plan.tp_size, plan.dp_size, num_nodes, gpus_per_node)
    trained, passes, whole = finetuned_of(plan), passes_of(plan.config.adversarial), StepTime()
    for step in steps_of(plan):
        all_batches = StepTime()
        for head in step.heads:
            work = _network_passes(plan, head)
            each = micro_batch_time(work, trained, head.rows, rank.tp_size, rates)
            all_batches += each.times(passes * head.micro_batches)
        # They are dealt to the ranks in turn: a step takes as long as that with most of them.
        most = -(-step.micro_batches // rank.dp_size)
        slowest = all_batches.times(most / step.micro_batches)
        # A head without a gradient in the last micro-batch holds up all reductions.
        has_one_head = len(plan.config.tasks) == 1 and plan.mlm is None
        mean = all_batches.times(1 / (passes * step.micro_batches))
        last = mean.times(has_one_head)
        update = update_time(trained, passes * most, rank, rates, mean, last)
        whole += (slowest + update).times(step.num_steps)
    return whole


def model_flops(plan: FinetunePlan) -> float:
    """Operations that the model needs for all micro-batches, padding included."""
    total = 0
    for step in steps_of(plan):
        for head in step.heads:
            rows = head.rows * head.micro_batches * step.num_steps
            masked = rows * _label_slots(plan, head) if head.name == MLM_HEAD else 0
            total += training_flops(
                plan.model, plan.start.vocab_size, rows, head.width, masked_tokens=masked
            )
    return total * passes_per_step(plan.config.adversarial)


@dataclass(frozen=True)
class FinetuneLayouts:
    """The layouts of a fine-tuning run on its launch; the steps are one stage."""

    plan: FinetunePlan
    num_nodes: int
    gpus_per_node: int
    rates: Rates
    num_stages: int = 1

    @property
    def world_size(self) -> int:
        """Ranks."""
        return self.num_nodes * self.gpus_per_node

    def row_tokens(self, stage: int) -> int:
        """Of the widest head."""
        return max(head.width for step in steps_of(self.plan) for head in step.heads)

    def micro_batches(self, stage: int, dp_size: int) -> Sequence[int]:
        """Powers of two from one example to all rows that a head has in a step, and the size of
        the config; the steps stay the same."""
        config = self.plan.config
        least = max(task.rows_per_example for task in config.tasks.values())
        rows = [task.examples_per_step * task.rows_per_example for task in config.tasks.values()]
        most = max(*rows, config.mlm.rows_per_step if config.mlm else 0)
        powers = [least * 2**n for n in range(most.bit_length()) if least * 2**n < most]
        return sorted({*powers, most, config.micro_rows})

    def under(self, variant: Variant) -> "_Prepared":
        """The run under `variant`; raises ConfigError where the model does not split."""
        config = self.plan.config
        parallel = parallel_of(variant, config.parallel)
        again = recomputation(config.compute.activation_checkpointing, variant.recomputed)
        compute = config.compute.model_copy(update={"activation_checkpointing": again})
        check_grid(self.plan.model, compute, variant.tp_size)
        config = config.model_copy(update={"parallel": parallel, "compute": compute})
        if config.compiles_under_zero_3:
            raise ConfigError(ZERO_3_COMPILED)
        plan = replace(
            self.plan,
            config=config,
            tp_size=variant.tp_size,
            dp_size=self.world_size // variant.tp_size,
        )
        return _Prepared(self, plan)


@dataclass(frozen=True)
class _Prepared:
    """A fine-tuning run under a variant."""

    layouts: FinetuneLayouts
    plan: FinetunePlan

    def memory(self, stage: int, micro_rows: int) -> MemoryEstimate:
        return estimate_finetuning(_with_rows(self.plan, micro_rows))

    def time(self, stage: int, micro_rows: int) -> StepTime:
        launch = (self.layouts.num_nodes, self.layouts.gpus_per_node)
        return run_time(_with_rows(self.plan, micro_rows), *launch, self.layouts.rates)


def finetuning_overrides(outcome: Outcome, config: FinetuneConfig) -> dict[str, object]:
    """The config keys that give the run a layout; without those that have the value already."""
    variant, given = outcome.variant, config.compute.activation_checkpointing
    again = recomputation(given, variant.recomputed)
    result = parallel_overrides(variant, config.parallel)
    if again != given:
        result["compute.activation_checkpointing"] = again.model_dump(mode="json")
    if outcome.stages[0].micro_rows != config.micro_rows:
        result["micro_rows"] = outcome.stages[0].micro_rows
    return result


def _with_rows(plan: FinetunePlan, micro_rows: int) -> FinetunePlan:
    return replace(plan, config=plan.config.model_copy(update={"micro_rows": micro_rows}))


def _label_slots(plan: FinetunePlan, head: HeadWork) -> int:
    """Label slots of a row in the vocabulary head, which sees one of each row of other heads."""
    if plan.config.mlm is None:
        return 0
    return plan.config.mlm.objective.num_slots(head.width) if head.name == MLM_HEAD else 1


def _network_passes(plan: FinetunePlan, head: HeadWork) -> tuple[NetworkPass, ...]:
    """The work of each of the backward passes of a micro-batch."""
    adversarial = plan.config.adversarial
    repeats = passes_per_step(adversarial) / passes_of(adversarial)
    slots, kept = _label_slots(plan, head), trained_layers(plan.model)
    return (NetworkPass(plan.model, head.width, slots, repeats, kept_layers=kept),)
