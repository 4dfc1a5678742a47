"""What a run needs of each accelerator's memory, by arithmetic, before anything is started.

Weights, gradients and optimizer state follow from ZeRO (Rajbhandari et al. 2020, section 5) and
from how our engine keeps them: low-precision weights, fp32 sums of gradients, and the fp32 state
that the optimizer declares. Activations are Korthikanti et al. 2022 (section 4, equations 1 to 4),
less the attention probabilities where the attention backend does not keep them.
"""

from dataclasses import dataclass
from typing import Protocol

from model.compute import SLOTS_AT_ONCE, ComputeConfig
from model.config import ModelConfig
from model.generator import count_generator_parameters, generator_of
from model.objectives import ObjectiveSettings, ReplacedTokensConfig
from model.size import count_layer_parameters, count_matrix_parameters, count_parameters
from pipeline.run.config import TrainConfig
from pipeline.run.plan import PhasePlan, RunPlan

OVERHEAD_GB = 2.5
"""CUDA context, NCCL's buffers and fragmentation."""

BUCKET_VALUES = 100_000_000
"""DeepSpeed's buckets for reducing gradients hold at most so many values."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one accelerator, at its highest point."""

    weights: float
    gradients: float
    optimizer: float
    """fp32 master weights and moments; 0 where they are in host memory."""
    activations: float
    phase: int = 0
    """Number of the phase whose activations need most."""
    overhead: float = OVERHEAD_GB * 1e9
    """CUDA context, NCCL's buffers and fragmentation."""

    @property
    def total_gb(self) -> float:
        """All of it with the fixed overhead, in 1e9 bytes."""
        parts = (self.weights, self.gradients, self.optimizer, self.activations)
        return (sum(parts) + self.overhead) / 1e9

    def summary(self) -> str:
        """The parts in one line."""
        return (
            f"{self.total_gb:.1f} GB an accelerator: weights {self.weights / 1e9:.1f}, gradients "
            f"{self.gradients / 1e9:.1f}, optimizer {self.optimizer / 1e9:.1f}, activations "
            f"{self.activations / 1e9:.1f}, overhead {OVERHEAD_GB}"
        )


def estimate_memory(plan: RunPlan) -> MemoryEstimate:
    """The memory of the phase that needs most."""
    config = plan.config
    stage, dp_size = config.parallel.zero_stage, plan.dp_size
    value_bytes = config.value_bytes
    vocab_size = config.compute.padded_vocab_size(plan.vocab_size)
    parameters = count_trained(config, vocab_size) / plan.tp_size
    # A layer's gathered weights, and those fetched ahead, come on top of a rank's own share.
    gathered = 2 * count_layer_parameters(config.model) / plan.tp_size
    weights = value_bytes * (parameters if stage < 3 else parameters / dp_size + gathered)
    gradients = bucket_bytes(parameters, value_bytes, stage)
    gradients += 4 * (parameters if stage == 1 else parameters / dp_size)
    peaks = [peak_activation_bytes(plan, phase, vocab_size) for phase in plan.phases]
    activations = max(peaks)
    networks = networks_of(config.model, config.objective)
    in_matrices = sum(map(count_matrix_parameters, networks)) / plan.tp_size
    optimizer = config.optimizer.state_bytes(parameters, in_matrices) / dp_size
    if config.parallel.offload_optimizer:
        optimizer = 0
    return MemoryEstimate(weights, gradients, optimizer, activations, peaks.index(activations))


def count_trained(config: TrainConfig, vocab_size: int) -> int:
    """Parameters of all networks of a run, without padding."""
    parameters = count_parameters(config.model, vocab_size)
    if config.objective.type == "replaced_tokens":
        parameters += count_generator_parameters(config.model, vocab_size, config.objective)
    return parameters


def bucket_bytes(parameters: float, value_bytes: int, zero_stage: int) -> float:
    """Memory of the gradients that are reduced at a time.

    At ZeRO 2 and 3 they are in the format of the weights, and copied to fp32 for the reduction; at
    ZeRO 1 the fp32 sums themselves are reduced.
    """
    copied = 4 if zero_stage > 1 and value_bytes < 4 else 0
    return (value_bytes + copied) * min(parameters, BUCKET_VALUES)


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


def peak_activation_bytes(plan: RunPlan, phase: PhasePlan, vocab_size: int) -> float:
    """Bytes of the layers and the head of a phase at their peak: the loss, after all layers.

    Recomputation of a layer starts when the head is done: the larger of the two counts.
    """
    micro_rows, row_tokens = phase.config.batch.micro_rows, phase.manifest.row_tokens
    objective = phase.config.objective
    layers = activation_bytes(plan.config, micro_rows, row_tokens, plan.tp_size)
    if isinstance(objective, ReplacedTokensConfig):
        generator = generator_of(plan.config.model, objective)
        smaller = plan.config.model_copy(update={"model": generator})
        layers += activation_bytes(smaller, micro_rows, row_tokens, plan.tp_size)
    head = head_bytes(plan.config, objective, micro_rows, row_tokens, vocab_size, plan.tp_size)
    if phase.config.adversarial.type != "none":
        # The clean and the perturbed pass at once; four fp32 copies of the predictions are kept
        # for the gradient of their divergence, or made while it is computed.
        slots = micro_rows * objective.num_slots(row_tokens)
        layers, head = 2 * layers, 2 * head + 16 * slots * vocab_size / plan.tp_size
    if plan.config.compute.activation_checkpointing.type == "none":
        return layers + head
    again = layer_bytes(plan.config, micro_rows, row_tokens, plan.tp_size)
    return layers - again + max(again, head)


class Computed(Protocol):
    """What decides the memory of activations."""

    @property
    def model(self) -> ModelConfig:
        """The network."""

    @property
    def compute(self) -> ComputeConfig:
        """How it is computed."""

    @property
    def value_bytes(self) -> int:
        """Bytes of a value."""


def activation_bytes(config: Computed, micro_rows: int, row_tokens: int, tp_size: int) -> float:
    """Bytes that the layers keep for the backward pass of one micro-batch on one rank.

    sbh (10 + 24/t + 5as/(ht)) a layer in 16 bits (Korthikanti et al. 2022, equation 2); the last
    term only where probabilities are kept; all of it over t under sequence parallelism (equation
    4); 2sbh a layer, and one whole layer, where layers are computed again.
    """
    model = config.model
    layer = layer_bytes(config, micro_rows, row_tokens, tp_size)
    if config.compute.activation_checkpointing.type == "none":
        return model.num_layers * layer
    one = micro_rows * row_tokens * model.hidden_size * config.value_bytes / 2
    return model.num_layers * 2 * one + layer


def layer_bytes(config: Computed, micro_rows: int, row_tokens: int, tp_size: int) -> float:
    """Bytes that one layer keeps, if it is not computed again."""
    model = config.model
    one = micro_rows * row_tokens * model.hidden_size * config.value_bytes / 2
    outside = 10 / tp_size if config.compute.sequence_parallel else 10
    probabilities = 0.0
    if keeps_probabilities(config.compute):
        probabilities = 5 * model.num_attention_heads * row_tokens / model.hidden_size / tp_size
    ffn = model.ffn_hidden_size / model.hidden_size * (3 if model.is_gated else 2) / 8
    share = model.key_value_heads / model.num_attention_heads
    # Queries and output; keys and values, which all backends but flex repeat for their groups.
    attention = 4 + 4 * (share if config.compute.attention_backend == "flex" else 1)
    attention += 2 * (1 + share) if model.query_key_norm else 0  # what the norms read
    return one * (outside + (attention + 16 * ffn) / tp_size + probabilities)


def keeps_probabilities(compute: ComputeConfig) -> bool:
    """Whether the attention backend on CUDA keeps a row's attention probabilities."""
    return compute.attention_backend == "explicit"


def head_bytes(
    config: Computed,
    objective: ObjectiveSettings,
    micro_rows: int,
    row_tokens: int,
    vocab_size: int,
    tp_size: int,
) -> float:
    """Bytes of the vocabulary head on label slots: logits, their fp32 copy and its gradient.

    A causal objective computes the logits of a part of its slots at a time, and keeps the hidden
    states of all.
    """
    slots = micro_rows * objective.num_slots(row_tokens)
    at_once = min(slots, SLOTS_AT_ONCE) if objective.IS_CAUSAL else slots
    logits = at_once * vocab_size / tp_size * (2 * config.value_bytes + 8)
    kept = 2 * slots * config.model.hidden_size * config.value_bytes
    return logits + (kept if objective.IS_CAUSAL else 0)
