"""What a forward and backward pass has to do on one rank: operations, bytes, kernels, messages.

Counts of this network's operators, each of which reads its inputs and writes its outputs once; the
operands of large matrix products are part of their rate. h hidden size, f inner width, S tokens of
a row, a heads, t tensor-parallel ranks; "units" are values of the hidden state of a token (h values
of the number format). docs/planner.md has the table of the units.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

from model.compute import SPARSE_BACKENDS, ComputeConfig, compiles_parts
from model.config import ModelConfig
from model.flops import attention_flops, encoder_flops, weights_after_attention
from model.options import FullAttention

LAYER_LAUNCHES = 38
"""Kernels of a layer with dropout and GELU, forward and backward: base has 482 with the rest."""
FORWARD_LAUNCHES = 14
"""Of these, in the forward pass, which recomputation launches again."""
KEPT_LAUNCHES = 5
"""Of these, four products and attention, whose results selective recomputation keeps."""
ROTARY_LAUNCHES = 31
GATE_LAUNCHES = 5
PARTS_LAUNCHES = 34
"""The same of a layer whose parts are compiled, as counted on a CPU, with 12 products and 2 of
attention (`tests/model/test_compiled_budget.py`); a gate takes no kernel of its own."""
PARTS_FORWARD_LAUNCHES = 9
PARTS_ROTARY_LAUNCHES = 4
OTHER_LAUNCHES = 26
"""Kernels of embedding, head and loss."""
TENSOR_LAUNCHES = 2
"""Kernels by which DeepSpeed adds the gradient of one tensor to its sum; one at ZeRO 1
(`pipeline.engine.flat_gradients`)."""
DROPOUT_UNITS = 2.5
"""A value read, one written, and a byte of mask."""
EMBEDDING_UNITS = 20
"""Sums of vectors, norm and dropout, forward and backward."""
LOGIT_PASSES = 4
"""Logits of the head: read in the forward pass, read and overwritten by their gradient in the
backward pass, which the sum for the decoder's bias reads."""
VECTOR_PASSES = 6
"""Word vectors: how often their gradient is written, added and read in a micro-batch."""


@dataclass(frozen=True)
class Work:
    """What one rank does in a micro-batch."""

    matrix_flops: float = 0.0
    """Operations of matrix products; a multiply-add is two."""
    traffic_bytes: float = 0.0
    """Bytes that all other operators read and write in the accelerator's memory."""
    launches: float = 0.0
    """Kernels that the host starts."""
    tp_bytes: float = 0.0
    """Bytes that it sends to tensor-parallel ranks."""
    tp_calls: float = 0.0
    """Collectives of tensor-parallel ranks."""

    def __add__(self, other: "Work") -> "Work":
        return Work(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def times(self, factor: float) -> "Work":
        """So many times the work."""
        return Work(*(getattr(self, f.name) * factor for f in fields(self)))


@dataclass(frozen=True)
class NetworkPass:
    """A forward and backward pass of one network over the rows of a micro-batch."""

    model: ModelConfig
    row_tokens: int
    label_slots: int
    """Tokens of a row that the vocabulary head sees."""
    repeats: float = 1.0
    """Passes, where one forward and one backward pass is 1."""
    is_causal: bool = False
    kept_layers: int | None = None
    """Layers with a backward pass, from the top; None: all."""
    reads_all: bool = True
    """Whether more than the label slots is read of the last layer's output."""

    @property
    def trained_share(self) -> float:
        """Of the layers, those with a backward pass."""
        kept = self.model.num_layers if self.kept_layers is None else self.kept_layers
        return kept / self.model.num_layers

    def unread_share(self, compute: ComputeConfig) -> float:
        """Of the tokens, those that the last layer does not compute after its attention."""
        if self.reads_all or compute.sequence_parallel:
            return 0.0
        return 1 - self.label_slots / self.row_tokens


class Computed(Protocol):
    """How a network is computed."""

    @property
    def compute(self) -> ComputeConfig:
        """Backend, recomputation and sharding by tokens."""

    @property
    def value_bytes(self) -> int:
        """Bytes of a value."""

    @property
    def vocab_size(self) -> int:
        """Vocabulary with padding, over all tensor-parallel ranks."""


def work_of(one: NetworkPass, how: Computed, rows: int, tp_size: int) -> Work:
    """What a rank does for `rows` rows of `one`; gradients are not added up yet."""
    work = Work(
        matrix_flops=_matrix_flops(one, how, rows, tp_size),
        traffic_bytes=_traffic(one, how, rows, tp_size),
        launches=_launches(one, how, tp_size),
    )
    if tp_size > 1:
        work += _tensor_parallel(one, how, rows, tp_size)
    return work.times(one.repeats)


def keeps_attention(one: NetworkPass, how: Computed, tp_size: int) -> bool:
    """Whether selective recomputation keeps the output of attention's kernel on CUDA.

    It sees FlexAttention where layers are compiled, so not beside tensor-parallel ranks.
    """
    backend = gpu_backend(one.model, how.compute)
    return backend in ("sdpa", "varlen") or (backend == "flex" and tp_size == 1)


def gpu_backend(model: ModelConfig, compute: ComputeConfig) -> str:
    """The attention backend that trains `model` on CUDA (`model.attention_masks`)."""
    if compute.attention_backend != "auto":
        return compute.attention_backend
    is_sparse = model.attention_pattern.type != "full" or model.packed_rows.type == "inside"
    return "flex" if is_sparse and model.attention_dropout == 0 else "sdpa"


def accumulation_work(parameters: float, num_tensors: int, value_bytes: int, is_flat: bool) -> Work:
    """Adding the gradients of a micro-batch to their fp32 sums, of so many on this rank.

    `is_flat`: these are flat tensors (`pipeline.engine.flat_gradients`).
    """
    return Work(
        traffic_bytes=(8 + value_bytes) * parameters,
        launches=(1 if is_flat else TENSOR_LAUNCHES) * num_tensors,
    )


def _matrix_flops(one: NetworkPass, how: Computed, rows: int, tp_size: int) -> float:
    """A backward pass costs two forward ones; only flex and varlen skip what no token sees."""
    model, share = one.model, one.trained_share
    computed = model
    is_sparse = gpu_backend(model, how.compute) in SPARSE_BACKENDS
    if not is_sparse and model.attention_pattern.type != "full":
        computed = model.model_copy(update={"attention_pattern": FullAttention()})
    forward = encoder_flops(computed, one.row_tokens, one.is_causal) / tp_size
    kept = keeps_attention(one, how, tp_size)
    attention = attention_flops(computed, one.row_tokens, one.is_causal) / tp_size
    again = {"none": 0.0, "selective": 0.0 if kept else attention, "layers": forward}[
        how.compute.activation_checkpointing.type
    ]
    decoder = 2 * model.embedding_width * how.vocab_size / tp_size
    inputs = 2 * model.embedding_width * model.hidden_size if model.head_layers else 0
    passes = (1 + 2 * share) * forward + share * again
    unread = 2 * one.row_tokens * one.unread_share(how.compute) * weights_after_attention(model)
    passes -= unread / tp_size * _passes_of_last_layer(one, how)
    return rows * (passes + 3 * one.label_slots * (decoder + inputs))


def _passes_of_last_layer(one: NetworkPass, how: Computed) -> int:
    """Forward passes, where a backward pass of its products is two."""
    if not one.trained_share:
        return 1
    return 4 if how.compute.activation_checkpointing.type == "layers" else 3


def _traffic(one: NetworkPass, how: Computed, rows: int, tp_size: int) -> float:
    model, share = one.model, one.trained_share
    tokens = rows * one.row_tokens
    unit = tokens * model.hidden_size * how.value_bytes
    outside = tp_size if how.compute.sequence_parallel else 1
    shards = (outside, tp_size)
    forward, backward = layer_units(model, how.compute, one.row_tokens)
    ahead = sum(part / ranks for part, ranks in zip(forward, shards, strict=True))
    back = sum(part / ranks for part, ranks in zip(backward, shards, strict=True))
    kept = kernel_units(model) / tp_size if keeps_attention(one, how, tp_size) else 0.0
    again = {"none": 0.0, "selective": ahead - kept, "layers": ahead}[
        how.compute.activation_checkpointing.type
    ]
    layers = model.num_layers * (ahead + share * (back + again))
    if unread := one.unread_share(how.compute):
        of_attention = _attention_units(model, how.compute, one.row_tokens)
        ahead, back = (
            between + (inside - attention) / tp_size
            for (between, inside), attention in zip((forward, backward), of_attention, strict=True)
        )
        is_again = how.compute.activation_checkpointing.type != "none"
        layers -= unread * (ahead + (back + ahead * is_again if share else 0))
    logits = rows * one.label_slots * how.vocab_size / tp_size
    vectors = how.vocab_size * model.embedding_width / tp_size if one.label_slots else 0
    return (
        unit * (layers + EMBEDDING_UNITS / outside)
        + LOGIT_PASSES * logits * how.value_bytes
        + VECTOR_PASSES * vectors * how.value_bytes
    )


def layer_units(
    model: ModelConfig, compute: ComputeConfig, row_tokens: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """((forward between the blocks, inside them), (backward ...)): units of a token in a layer.

    What is between the blocks is on every tensor-parallel rank, unless sharded by tokens; what is
    inside is sharded.
    """
    inner = model.ffn_hidden_size / model.hidden_size
    dropout = 2 * DROPOUT_UNITS if model.hidden_dropout else 0
    ahead, back = _attention_units(model, compute, row_tokens)
    gate = (5, 13) if model.is_gated else (2, 3)
    ahead, back = ahead + gate[0] * inner, back + gate[1] * inner
    if model.bias.mlp and model.bias.mlp_up:
        back += inner * (2 if model.is_gated else 1)
    biases = model.bias.attention + model.bias.mlp
    return (10 + dropout, ahead), (12 + dropout + biases, back)


def _attention_units(
    model: ModelConfig, compute: ComputeConfig, row_tokens: int
) -> tuple[float, float]:
    """(forward, backward) units of a token in the attention of a layer."""
    backend = gpu_backend(model, compute)
    share = model.key_value_heads / model.num_attention_heads
    qkv = 1 + 2 * share  # queries, keys and values
    if backend == "explicit":
        heads = model.num_attention_heads * row_tokens / model.hidden_size  # probabilities
        masks = (8 * heads, 3 * heads) if model.attention_dropout else (0, 0)
        ahead, back = 10 + 4 * heads + masks[0], 10 + 7 * heads + masks[1]
    elif backend == "flex":
        ahead, back = 1 + 3 * qkv, 5 + 3 * qkv
    elif backend == "varlen":
        copied = 2 if share < 1 and model.positions.type != "rotary" else 0  # queries of groups
        ahead, back = 1 + qkv + copied, 2 + 2 * qkv
    else:
        ahead, back = 4, 8
    if share < 1 and backend not in SPARSE_BACKENDS:  # which repeat keys and values for groups
        ahead, back = ahead + 8, back + 2 * (1 + share)
    if model.query_key_norm:
        ahead, back = ahead + 2 * (1 + share), back + 3 * (1 + share)
    if model.positions.type == "rotary" and backend != "explicit":  # which turns while it copies
        ahead, back = ahead + 10 * (1 + share), back + 10 * (1 + share)
    return ahead, back + 2 * qkv + (qkv if model.bias.attention else 0)


def kernel_units(model: ModelConfig) -> float:
    """Units of a token that an attention kernel reads and writes: queries, keys, values, output."""
    return 2 + 2 * model.key_value_heads / model.num_attention_heads


def _launches(one: NetworkPass, how: Computed, tp_size: int) -> float:
    model, share = one.model, one.trained_share
    layer, ahead = LAYER_LAUNCHES, FORWARD_LAUNCHES
    rotary, gate = ROTARY_LAUNCHES, GATE_LAUNCHES
    if compiles_parts(how.compute, tp_size):
        layer, ahead = PARTS_LAUNCHES, PARTS_FORWARD_LAUNCHES
        rotary, gate = PARTS_ROTARY_LAUNCHES, 0
    layer += rotary if model.positions.type == "rotary" else 0
    layer += gate if model.is_gated else 0
    backward = (layer - ahead) * share
    again = {"none": 0, "selective": ahead - KEPT_LAUNCHES, "layers": ahead}[
        how.compute.activation_checkpointing.type
    ]
    forward = ahead + share * again
    return model.num_layers * (forward + backward) + OTHER_LAUNCHES


def _tensor_parallel(one: NetworkPass, how: Computed, rows: int, tp_size: int) -> Work:
    """By rings: two all-reduces a layer and pass, or an all-gather and a reduce-scatter each under
    sequence parallelism, where the backward pass gathers the inputs of two products once more
    (Korthikanti et al. 2022, section 4)."""
    model, share = one.model, one.trained_share
    hidden = rows * one.row_tokens * model.hidden_size * how.value_bytes
    ring = (tp_size - 1) / tp_size
    if how.compute.sequence_parallel:
        per_layer: Sequence[float] = (4, 6)
    else:
        per_layer = (4, 4)  # a ring all-reduce sends twice
    calls = per_layer if how.compute.sequence_parallel else (2, 2)
    again = how.compute.activation_checkpointing.type == "layers"

    def over_layers(forward: float, backward: float) -> float:
        return model.num_layers * (forward + share * (backward + (forward if again else 0)))

    slots = rows * one.label_slots * model.embedding_width * how.value_bytes
    # Of the last layer's sums, only that of the backward pass through Q, K and V is of all tokens.
    of_last = 4 + ((2 + (4 if again else 0)) if share else 0)
    unread = one.unread_share(how.compute) * of_last
    return Work(
        tp_bytes=ring * (hidden * (over_layers(*per_layer) + 2 - unread) + 2 * slots),
        tp_calls=over_layers(*calls) + 2,
    )
