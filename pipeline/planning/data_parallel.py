"""What data-parallel ranks send each other in a step: bytes, and seconds on a network.

Gradients and weights, by rings or trees; with what a copy of the weights inside nodes saves, and
what the first forward and the last backward pass of a step hide.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from model.compute import ComputeConfig
from pipeline.optim.buckets import join_buckets
from pipeline.optim.union import OptimizerConfig
from pipeline.planning.accelerators import Accelerator
from pipeline.run.memory import (
    BUCKET_VALUES,
    SCATTERED_VALUES,
    values_per_bucket,
    values_per_gather,
)

COLLECTIVE_S, LINK_HOP_S, NETWORK_HOP_S = 8.4e-6, 3.4e-6, 14e-6
"""Latency of a collective and of each hop of a ring or tree: the constants by which NCCL chooses
its algorithms (src/graph/tuning.cc, protocol Simple)."""


class Rank(NamedTuple):
    """Where a rank stands: what a layout makes of the launch."""

    tp_size: int
    dp_size: int
    num_nodes: int
    gpus_per_node: int


@dataclass(frozen=True)
class Trained:
    """What is trained, over all ranks, and how it is computed."""

    precision: str
    value_bytes: int
    compute: ComputeConfig
    vocab_size: int
    """With padding."""
    parameters: float
    """Those with gradients."""
    in_matrices: float
    """Of them, those in the matrices of layers."""
    num_tensors: int
    optimizer: OptimizerConfig
    zero_stage: int
    gather_ranks: int | None
    """`parallel.zero_gather_ranks`."""
    reduces_once: bool
    """`parallel.reduce_gradients` is step."""
    offloads: bool
    has_flat_gradients: bool
    """`RunConfig.has_flat_gradients`."""
    update_flops: float = 0.0
    """Operations of the optimizer's own matrix products in a step, in fp32, over all ranks."""


def data_parallel_bytes(trained: Trained, accumulation: int, tp_size: int, dp_size: int) -> float:
    """Bytes that a rank sends to its data-parallel peers in a step, by rings.

    fp32 gradients: at ZeRO 1 a reduce-scatter a step (an all-reduce where they are not flat or a
    rank gets few), at ZeRO 2 an all-reduce and at ZeRO 3 a reduce-scatter a micro-batch (or once a
    step); weights: an all-gather a step, at ZeRO 3 one for each pass of a micro-batch.
    """
    values = trained.parameters / tp_size
    ring = (dp_size - 1) / dp_size
    weights = values * trained.value_bytes
    if trained.zero_stage == 3:
        near, everywhere = gathered_bytes(trained, accumulation, tp_size, dp_size)
        times = 1 if trained.reduces_once else accumulation
        return ring * times * 4 * values + near + everywhere
    if trained.has_flat_gradients:
        return ring * (sum(_reduced_bytes(trained, tp_size, dp_size)) + weights)
    times = accumulation if trained.zero_stage == 2 else 1
    return ring * (2 * 4 * values * times + weights)


def gathered_bytes(
    trained: Trained, accumulation: int, tp_size: int, dp_size: int
) -> tuple[float, float]:
    """The bytes of weights that a rank sends in a step at ZeRO 3, (to the ranks that keep a copy
    together with it, to all).

    With such a copy only the first gathering after an update is over all ranks.
    """
    weights = trained.parameters / tp_size * trained.value_bytes
    ring = (dp_size - 1) / dp_size
    passes = _passes(trained, accumulation)
    if trained.gather_ranks is None:
        return 0.0, ring * passes * weights
    near = (trained.gather_ranks - 1) / trained.gather_ranks
    return near * (passes - 1) * weights, ring * weights


def _passes(trained: Trained, accumulation: int) -> int:
    """Those of a step, each of which gathers the weights at ZeRO 3."""
    again = trained.compute.activation_checkpointing.type != "none"
    return accumulation * (3 if again else 2)


def _bucket_values(trained: Trained, tp_size: int, dp_size: int) -> list[float]:
    """Gradients in each bucket of ZeRO 1, in the order in which they are complete.

    The last one has the word vectors. The group without weight decay, which has few values, is
    counted with the others.
    """
    values = trained.parameters / tp_size
    size = values_per_bucket(trained.has_flat_gradients, dp_size)
    last = max(values - trained.in_matrices / tp_size, values % size)
    number = (values - last) // size
    if trained.optimizer.type == "muon" or number < 1:  # Muon's matrices stay together
        return [values]
    return [(values - last) / number] * int(number) + [last]


def _scatters(bucket: float, dp_size: int) -> bool:
    """Whether it is reduced by reduce-scatter, else by an all-reduce."""
    return bucket / dp_size >= SCATTERED_VALUES


def _reduced_bytes(trained: Trained, tp_size: int, dp_size: int) -> list[float]:
    """Of each bucket; an all-reduce sends every value twice."""
    return [
        4 * values * (1 if _scatters(values, dp_size) else 2)
        for values in _bucket_values(trained, tp_size, dp_size)
    ]


class _Network(NamedTuple):
    """Between the data-parallel ranks."""

    bytes_s: float
    """Of a rank."""
    link_bytes_s: float
    """The same inside a node."""
    ring_s: float
    """Latency of a ring."""
    tree_s: float


def _network(rank: Rank, found: Accelerator) -> _Network:
    rate = found.link_bytes_s
    if rank.num_nodes > 1:
        # The data-parallel groups of a node, one for each tensor-parallel rank, share its network.
        rate = min(rate, found.network_bytes_s(rank.gpus_per_node) / rank.tp_size)
    hops = rank.num_nodes if rank.num_nodes > 1 else 0
    ring = COLLECTIVE_S + hops * NETWORK_HOP_S + (rank.dp_size - hops) * LINK_HOP_S
    tree = found.link_latency_s + 2 * math.log2(rank.num_nodes) * NETWORK_HOP_S
    return _Network(rate, found.link_bytes_s, ring, tree)


class Hidden(NamedTuple):
    """How long the passes of a step can hide messages at ZeRO 1."""

    forward_s: float
    """The first forward pass, those of new weights."""
    backward_s: float
    """The last backward pass, those of gradients."""


def data_parallel_s(
    trained: Trained, accumulation: int, rank: Rank, found: Accelerator, hidden: Hidden
) -> float:
    """Seconds of a step in which a rank waits for its data-parallel peers."""
    if rank.dp_size == 1:
        return 0.0
    network = _network(rank, found)
    if trained.has_flat_gradients:
        reductions_s = _reductions_s(trained, rank, network, hidden.backward_s)
        return reductions_s + _gathers_s(trained, rank, network, hidden.forward_s)
    sent_s = data_parallel_bytes(trained, accumulation, rank.tp_size, rank.dp_size)
    sent_s /= network.bytes_s
    buckets = math.ceil(trained.parameters / rank.tp_size / BUCKET_VALUES)
    if trained.zero_stage == 3:
        times = 1 if trained.reduces_once else accumulation
        calls = times * buckets + accumulation * trained.num_tensors
        return sent_s + calls * network.ring_s - _saved_near_s(trained, accumulation, rank, network)
    times = accumulation if trained.zero_stage == 2 else 1
    return sent_s + buckets * (times * network.tree_s + network.ring_s)


def _reductions_s(trained: Trained, rank: Rank, network: _Network, backward_s: float) -> float:
    """What gradients of ZeRO 1 take beyond a backward pass of `backward_s`."""
    latencies = [
        network.ring_s if _scatters(values, rank.dp_size) else network.tree_s
        for values in _bucket_values(trained, rank.tp_size, rank.dp_size)
    ]
    share = (rank.dp_size - 1) / rank.dp_size / network.bytes_s
    sizes = _reduced_bytes(trained, rank.tp_size, rank.dp_size)
    # All but the last bucket, which is complete when the pass ends.
    early_s = sum(latencies[:-1]) + share * sum(sizes[:-1])
    without_decay_s = network.tree_s
    return share * sum(sizes) + sum(latencies) + without_decay_s - min(early_s, backward_s)


def _gathers_s(trained: Trained, rank: Rank, network: _Network, forward_s: float) -> float:
    """How much longer a forward pass of `forward_s` takes that waits for its weights part by part.

    Its time goes to the matrices of layers in equal parts: none to the word vectors.
    """
    buckets = _bucket_values(trained, rank.tp_size, rank.dp_size)[::-1]
    in_matrices = trained.in_matrices / rank.tp_size
    other = sum(buckets) - in_matrices  # in the first bucket
    runs_s = forward_s / in_matrices if in_matrices else 0.0  # of a value
    value_s = (rank.dp_size - 1) / rank.dp_size * trained.value_bytes / network.bytes_s
    arrived_s = ends_s = 0.0
    for numbers in join_buckets(buckets, values_per_gather(sum(buckets))):
        values = sum(buckets[number] for number in numbers)
        arrived_s += network.ring_s + value_s * values
        matrices = values - other if 0 in numbers else values
        ends_s = max(ends_s, arrived_s) + runs_s * matrices
    return ends_s - runs_s * in_matrices


def _saved_near_s(trained: Trained, accumulation: int, rank: Rank, network: _Network) -> float:
    """What copies of the weights inside nodes save of a step at ZeRO 3."""
    if trained.gather_ranks is None or trained.gather_ranks * rank.tp_size > rank.gpus_per_node:
        return 0.0
    near, _ = gathered_bytes(trained, accumulation, rank.tp_size, rank.dp_size)
    near_calls = accumulation * trained.num_tensors * (1 - 1 / _passes(trained, accumulation))
    near_ring_s = COLLECTIVE_S + trained.gather_ranks * LINK_HOP_S
    saved_s = near * (1 / network.bytes_s - 1 / network.link_bytes_s)
    return saved_s + near_calls * (network.ring_s - near_ring_s)
