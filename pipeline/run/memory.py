"""What a run needs of each accelerator's memory, by arithmetic, before anything is started.

Weights, gradients and optimizer state follow from ZeRO (Rajbhandari et al. 2020, section 5) and
from how our engine keeps them: low-precision weights, fp32 sums of gradients, and the fp32 state
that the optimizer declares; what DeepSpeed keeps besides was measured on CPUs (docs/planner.md).
Activations are those of `pipeline.run.activations`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from model.config import ModelConfig
from model.generator import count_generator_parameters, generator_of
from model.objectives import ObjectiveSettings, ReplacedTokensConfig
from model.size import count_matrix_parameters, count_parameters
from pipeline.run.activations import activation_bytes, head_bytes, kept_and_computed_bytes
from pipeline.run.config import RunConfig, TrainConfig
from pipeline.run.plan import PhasePlan, RunPlan

AnyRun = TypeVar("AnyRun", bound=RunConfig)
OVERHEAD_GB = 2.5
"""CUDA context, NCCL's buffers and fragmentation."""

BUCKET_VALUES = 100_000_000
"""DeepSpeed's buckets for reducing gradients hold at most so many values."""

SCATTERED_VALUES = 1 << 18
"""ZeRO 1 reduces gradients by reduce-scatter where each rank gets at least so many, and by
all-reduce below. By NCCL's model a ring waits about 4 us a rank, in which nodes with 300 GB/s send
a megabyte; the tree of an all-reduce sends twice the bytes in few hops."""

OVERLAPPED_VALUES = 1 << 25
"""The least values of a bucket of gradients that is reduced during the backward pass, 134 MB
in fp32."""

MAX_GATHERS = 16
"""New weights are gathered in so many collectives at most: with each more the forward pass starts
earlier, but has one more latency to wait for."""

LIVE_VALUES = 1_000_000_000
"""ZeRO 3 keeps the gathered weights of at most so many parameters, all of smaller models:
stage3_max_live_parameters of DeepSpeed's config, which we leave at its default."""

PROCESS_BYTES = 0.48e9
"""A rank on a CPU before it builds its model: mostly torch, DeepSpeed and megatron-core."""
HEAP_BYTES, HEAP_SHARE = 0.15e9, 0.2
"""What the heap of such a process holds besides: in all, and of activations and buffers, whose
blocks glibc keeps when they are freed. Large tensors are returned. In fp32 it kept nearly as much
as the activations (docs/planner.md)."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one accelerator, or of one rank on a CPU, at its highest point."""

    weights: float
    gradients: float
    """All that are kept from a micro-batch to the next."""
    optimizer: float
    """fp32 master weights and moments; 0 where they are in host memory."""
    activations: float
    phase: int = 0
    """Number of the phase whose activations need most."""
    buffers: float = 0.0
    """Gathered weights of ZeRO 3, gradients while they are reduced, and on a CPU the copy of what
    the rank writes of a checkpoint while it trains."""
    overhead: float = OVERHEAD_GB * 1e9
    """On a CPU that of the process and its heap."""
    on_cpu: bool = False

    @property
    def state(self) -> float:
        """What stays from step to step and from micro-batch to micro-batch."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total_gb(self) -> float:
        """All of it, in 1e9 bytes."""
        return (self.state + self.activations + self.buffers + self.overhead) / 1e9

    def summary(self) -> str:
        """The parts in one line."""
        where = "a rank" if self.on_cpu else "an accelerator"
        parts = ("weights", "gradients", "optimizer", "activations", "buffers", "overhead")
        shown = ", ".join(f"{name} {getattr(self, name) / 1e9:.1f}" for name in parts)
        return f"{self.total_gb:.1f} GB {where}: {shown}"


def estimate_memory(plan: RunPlan, on_cpu: bool = False) -> MemoryEstimate:
    """The memory of the phase that needs most, of a rank on a CPU or of its accelerator."""
    config = plan.config
    vocab_size = config.compute.padded_vocab_size(plan.vocab_size)
    parameters = count_trained(config, vocab_size) / plan.tp_size
    networks = networks_of(config.model, config.objective)
    state = state_memory(
        config,
        parameters,
        parameters,
        sum(map(count_matrix_parameters, networks)) / plan.tp_size,
        plan.dp_size,
        on_cpu,
    )
    peaks = [peak_activation_bytes(plan, phase, vocab_size, on_cpu) for phase in plan.phases]
    activations = max(peaks)
    state = replace(state, activations=activations, phase=peaks.index(activations))
    if not on_cpu:
        return state
    copied = checkpoint_bytes(config, plan.vocab_size) / plan.tp_size / plan.dp_size
    saves_start = config.start.type != "scratch"
    return for_cpu(
        state, config, copied, saves_start or saves_before_end(config, plan.steps.total_steps)
    )


def state_memory(
    config: RunConfig,
    parameters: float,
    trained: float,
    in_matrices: float,
    dp_size: int,
    on_cpu: bool = False,
) -> MemoryEstimate:
    """The memory of a tensor-parallel rank with so many `parameters`, without activations.

    `trained` of them have gradients, `in_matrices` of these are in the matrices of layers. ZeRO 1
    adds each gradient to its fp32 sum as soon as it is there; ZeRO 2 and 3 reduce them at once, by
    buckets that are copied to fp32; the bucket of ZeRO 3 is fp32.
    """
    stage, value_bytes = config.parallel.zero_stage, config.value_bytes
    bucket = min(trained, BUCKET_VALUES)
    copied = value_bytes if value_bytes < 4 else 0
    weights = value_bytes * parameters
    gradients, buffers = 4.0 * trained, 0.0 if config.has_flat_gradients else 4.0 * bucket
    if stage > 1:
        gradients, buffers = 4 * trained / dp_size, (4 + copied) * bucket
        if config.parallel.reduce_gradients == "step":
            gradients += 4 * trained
    if stage == 3 and dp_size > 1:  # one rank uses its weights as they are
        weights /= dp_size
        if config.parallel.zero_gather_ranks is not None:
            weights += value_bytes * parameters / config.parallel.zero_gather_ranks
        buffers += value_bytes * min(parameters, LIVE_VALUES)
    optimizer = config.optimizer.state_bytes(trained, in_matrices) / dp_size
    if config.parallel.offload_optimizer and not on_cpu:
        optimizer = 0
    return MemoryEstimate(weights, gradients, optimizer, 0.0, buffers=buffers)


def values_per_bucket(flat_gradients: bool, dp_size: int) -> float:
    """The least values of a bucket of gradients; infinite where none is reduced before the end of
    the backward pass. Many ranks have larger buckets, so that each is still scattered.

    `flat_gradients`: `RunConfig.has_flat_gradients`.
    """
    if dp_size == 1 or not flat_gradients:
        return math.inf
    return max(OVERLAPPED_VALUES, SCATTERED_VALUES * dp_size)


def values_per_gather(num_values: float) -> float:
    """The least values of an all-gather of new weights, of a rank's `num_values` in all."""
    return max(OVERLAPPED_VALUES, num_values / MAX_GATHERS)


def for_cpu(
    estimate: MemoryEstimate, config: RunConfig, copied_bytes: float, saves_before_end: bool
) -> MemoryEstimate:
    """The `estimate` of a rank that is a process on a CPU.

    It copies `copied_bytes` for a checkpoint: beside the activations of later steps, or, unless the
    run `saves_before_end`, in the place of those of the last step.
    """
    overhead = PROCESS_BYTES + HEAP_BYTES
    overhead += HEAP_SHARE * (estimate.activations + estimate.buffers)
    if not saves_before_end:
        copied_bytes = max(0.0, copied_bytes - estimate.activations - estimate.buffers)
    buffers = estimate.buffers + copied_bytes
    return replace(estimate, buffers=buffers, overhead=overhead, on_cpu=True)


def saves_before_end(config: RunConfig, num_steps: int) -> bool:
    """Whether a run of `num_steps` steps may save a checkpoint before its last step."""
    rules = config.checkpoint.for_validation(config.validation)
    return rules.every_steps < num_steps or rules.every_minutes is not None or rules.keep_best > 0


def zero_stage_advice(
    config: AnyRun, memory: MemoryEstimate, dp_size: int, under: Callable[[AnyRun], MemoryEstimate]
) -> str | None:
    """Advice to take the lowest ZeRO stage above that of `config` that needs less than `memory`, by
    the estimates `under` changed configs; None: there is no such stage."""
    if dp_size == 1 or config.compute.cuda_graphs == "on":  # which needs ZeRO 1
        return None
    highest = 2 if config.compute.compile == "on" else 3
    for stage in range(config.parallel.zero_stage + 1, highest + 1):
        parallel = config.parallel.model_copy(update={"zero_stage": stage})
        if under(config.model_copy(update={"parallel": parallel})).total_gb < memory.total_gb:
            return f"raise parallel.zero_stage to {stage} (now {config.parallel.zero_stage})"
    return None


def count_trained(config: TrainConfig, vocab_size: int) -> int:
    """Parameters of all networks of a run, without padding."""
    parameters = count_parameters(config.model, vocab_size)
    if config.objective.type == "replaced_tokens":
        parameters += count_generator_parameters(config.model, vocab_size, config.objective)
    return parameters


def checkpoint_bytes(config: TrainConfig, vocab_size: int) -> float:
    """Size of a checkpoint: fp32 weights and optimizer state, without padding."""
    in_matrices = sum(map(count_matrix_parameters, networks_of(config.model, config.objective)))
    return config.optimizer.state_bytes(count_trained(config, vocab_size), in_matrices)


def networks_of(model: ModelConfig, objective: ObjectiveSettings) -> list[ModelConfig]:
    """The networks whose weights are trained."""
    is_small = isinstance(objective, ReplacedTokensConfig) and objective.generator.type == "small"
    if not is_small:
        return [model]
    assert isinstance(objective, ReplacedTokensConfig)
    return [model, generator_of(model, objective)]


def peak_activation_bytes(
    plan: RunPlan, phase: PhasePlan, vocab_size: int, on_cpu: bool = False
) -> float:
    """Bytes of the layers and the head of a phase at their peak: the loss, after all layers.

    Recomputation of a layer starts when the head is done: the larger of the two counts.
    """
    micro_rows, row_tokens = phase.config.batch.micro_rows, phase.manifest.row_tokens
    objective = phase.config.objective
    shape = (micro_rows, row_tokens, plan.tp_size, on_cpu)
    layers, again = kept_and_computed_bytes(plan.config, *shape)
    if isinstance(objective, ReplacedTokensConfig):
        generator = generator_of(plan.config.model, objective)
        smaller = plan.config.model_copy(update={"model": generator})
        layers += activation_bytes(smaller, *shape)
    logits = (micro_rows, row_tokens, vocab_size, plan.tp_size)
    overwrites = not on_cpu and phase.config.adversarial.type == "none"
    head = head_bytes(plan.config, objective, *logits, overwrites)
    if phase.config.adversarial.type != "none":
        # The clean and the perturbed pass at once; four fp32 copies of the predictions are kept
        # for the gradient of their divergence, or made while it is computed.
        slots = micro_rows * objective.num_slots(row_tokens)
        layers, head = 2 * layers, 2 * head + 16 * slots * vocab_size / plan.tp_size
    return layers + max(again, head)
