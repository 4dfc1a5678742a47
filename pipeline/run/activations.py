"""The activations that a rank keeps for the backward pass of a micro-batch, by arithmetic.

On an accelerator they are Korthikanti et al. 2022 (section 4, equations 1 to 4), less the attention
probabilities where the attention backend does not keep them. On a CPU they are what autograd saves
there (docs/planner.md).
"""

from typing import Protocol

from model.compute import SLOTS_AT_ONCE, SPARSE_BACKENDS, ComputeConfig
from model.config import ModelConfig
from model.objectives import ObjectiveSettings


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


def activation_bytes(
    config: Computed, micro_rows: int, row_tokens: int, tp_size: int, on_cpu: bool = False
) -> float:
    """Bytes of the layers in the backward pass of one micro-batch on one rank, at its start.

    sbh (10 + 24/t + 5as/(ht)) a layer in 16 bits (Korthikanti et al. 2022, equation 2); the last
    term only where probabilities are kept; all of it over t under sequence parallelism (equation
    4); less a layer, and what is computed again at a time, where it is.
    """
    return sum(kept_and_computed_bytes(config, micro_rows, row_tokens, tp_size, on_cpu))


def kept_and_computed_bytes(
    config: Computed, micro_rows: int, row_tokens: int, tp_size: int, on_cpu: bool = False
) -> tuple[float, float]:
    """(bytes that all layers keep, bytes that are there besides while some are computed again)."""
    model, again = config.model, config.compute.activation_checkpointing
    layer = layer_bytes(config, micro_rows, row_tokens, tp_size, on_cpu)
    if again.type == "none":
        return model.num_layers * layer, 0.0
    if again.type == "selective":
        kept = selective_layer_bytes(config, micro_rows, row_tokens, tp_size, on_cpu)
        return model.num_layers * kept, layer - kept
    shards = tp_size if config.compute.sequence_parallel else 1
    inputs = micro_rows * row_tokens * model.hidden_size * config.value_bytes / shards
    return -(-model.num_layers // again.every) * inputs, again.every * layer


def selective_layer_bytes(
    config: Computed, micro_rows: int, row_tokens: int, tp_size: int, on_cpu: bool = False
) -> float:
    """Bytes that one layer keeps under selective recomputation: its input and the results of its
    products, of which a pre-LN layer does not read the last again."""
    model = config.model
    outside = 3.0 if model.norm_placement.type == "post" else 2.0
    share = model.key_value_heads / model.num_attention_heads
    inside = 1 + 2 * share + model.ffn_hidden_size / model.hidden_size * (1 + model.is_gated)
    again = ("auto", "explicit", "varlen") if on_cpu else ("explicit",)
    if config.compute.attention_backend not in again:
        inside += 1  # the output of attention's kernel
    shards = tp_size if config.compute.sequence_parallel else 1
    values = micro_rows * row_tokens * model.hidden_size
    return values * config.value_bytes * (outside / shards + inside / tp_size)


def layer_bytes(
    config: Computed, micro_rows: int, row_tokens: int, tp_size: int, on_cpu: bool = False
) -> float:
    """Bytes that one layer keeps, if it is not computed again."""
    if on_cpu:
        return cpu_layer_bytes(config, micro_rows, row_tokens, tp_size)
    model = config.model
    one = micro_rows * row_tokens * model.hidden_size * config.value_bytes / 2
    outside = 10 / tp_size if config.compute.sequence_parallel else 10
    probabilities = 0.0
    if keeps_probabilities(config.compute):
        probabilities = 5 * model.num_attention_heads * row_tokens / model.hidden_size / tp_size
    ffn = model.ffn_hidden_size / model.hidden_size * (3 if model.is_gated else 2) / 8
    share = model.key_value_heads / model.num_attention_heads
    # Queries and output; keys and values, which the others repeat for their groups.
    attention = 4 + 4 * (share if config.compute.attention_backend in SPARSE_BACKENDS else 1)
    attention += 2 * (1 + share) if model.query_key_norm else 0  # what the norms read
    return one * (outside + (attention + 16 * ffn) / tp_size + probabilities)


def cpu_layer_bytes(config: Computed, micro_rows: int, row_tokens: int, tp_size: int) -> float:
    """The same on a CPU: explicit attention keeps copies of queries, keys and values, and the
    probabilities; masks of dropout take two bytes a value."""
    model, size = config.model, config.value_bytes
    inner = model.ffn_hidden_size / model.hidden_size * (5 if model.is_gated else 2)
    probabilities = 0.0
    if config.compute.attention_backend in ("auto", "explicit"):
        attention = 1 + _explicit_values(model)  # and the mixed values
        kept = 2 * size + 2 if model.attention_dropout else size
        probabilities = kept * model.num_attention_heads * row_tokens / model.hidden_size
    else:
        attention = 2 + 2 * model.key_value_heads / model.num_attention_heads
    outside = 4 * size + (4 if model.hidden_dropout else 0)
    shards = tp_size if config.compute.sequence_parallel else 1
    values = micro_rows * row_tokens * model.hidden_size
    return values * (outside / shards + (size * (attention + inner) + probabilities) / tp_size)


def _explicit_values(model: ModelConfig) -> float:
    """Queries, keys and values of a token that explicit attention keeps, in hidden sizes.

    Queries are scaled, values too where there is dropout. What they are made of is kept besides
    where it is one tensor with the keys, or the input of a norm.
    """
    share = model.key_value_heads / model.num_attention_heads
    has_dropout = model.attention_dropout > 0
    if model.query_key_norm:
        read = 3.0 if share == 1 else 2 + 2 * share
        return read + 2 + (1 if has_dropout or share < 1 else 0)
    if model.positions.type == "rotary" or share < 1:
        return 3
    return 5 if has_dropout else 4


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
    overwrites: bool = False,
) -> float:
    """Bytes of the vocabulary head on label slots: logits, their fp32 copy and its gradient.

    `overwrites`: the gradient takes the memory of the logits, as on an accelerator where nobody
    else reads them (`model.cross_entropy`). A causal objective computes the logits of a part of its
    slots at a time, and keeps the hidden states of all.
    """
    slots = micro_rows * objective.num_slots(row_tokens)
    at_once = min(slots, SLOTS_AT_ONCE) if objective.IS_CAUSAL else slots
    logit_bytes = config.value_bytes if overwrites else 2 * config.value_bytes + 8
    logits = at_once * vocab_size / tp_size * logit_bytes
    kept = 2 * slots * config.model.hidden_size * config.value_bytes
    return logits + (kept if objective.IS_CAUSAL else 0)
