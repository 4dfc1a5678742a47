"""The time of an optimizer step from counts and rates, split into its parts.

    matrix    = operations / (measured rate x utilization)
    traffic   = bytes of all other operators / (memory bandwidth x 0.9)
    tensor    = bytes sent / link + collectives x latency
    host      = kernels x time to launch one, as far as it is longer than matrix + traffic + tensor
    data      = bytes sent / min(link, network of a node / tensor-parallel size) + latencies, at
                ZeRO 1 in bf16 less what the last backward pass hides
    optimizer = its state and gradients, read and written once, and its own matrix products

All but `optimizer` and, at ZeRO 1, `data` are counted once a micro-batch. Nothing else is assumed
to overlap but the host with the accelerator.
"""

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

from model.compute import ComputeConfig
from pipeline.optim.union import OptimizerConfig
from pipeline.planning.accelerators import Accelerator
from pipeline.planning.work import NetworkPass, Work, accumulation_work, work_of
from pipeline.run.memory import BUCKET_VALUES, SCATTERED_VALUES, values_per_bucket

LAUNCH_S = 32e-6
"""Host time to start a kernel from Python: 25 ms for the 790 of a micro-batch of base (measured on
this project's CPUs; ZeRO 2 and 3 take 45 % more)."""
SHARDED_GRADIENTS = 1.45
GRAPH_LAUNCHES = 16
"""What the host starts in a micro-batch that is a CUDA graph: the graph, copies to its buffers and
sums of losses (by reading the code; no GPU has run it)."""
DEFAULT_UTILIZATION = 0.4
"""Share of the table's rate that a model's products reach, where nothing else is known: base on one
H200 (docs/planner.md)."""
COLLECTIVE_S, LINK_HOP_S, NETWORK_HOP_S = 8.4e-6, 3.4e-6, 14e-6
"""Latency of a collective and of each hop of a ring or tree: the constants by which NCCL chooses
its algorithms (src/graph/tuning.cc, protocol Simple)."""
HOST_BYTES_S = 20e9
"""Bytes a second of a rank's optimizer step in host memory (assumed)."""


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
    offloads: bool
    has_flat_gradients: bool
    """`RunConfig.has_flat_gradients`."""
    update_flops: float = 0.0
    """Operations of the optimizer's own matrix products in a step, in fp32, over all ranks."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of an optimizer step, by what they go to."""

    matrix: float = 0.0
    """Matrix products."""
    traffic: float = 0.0
    """All other operators, which memory bandwidth bounds."""
    host: float = 0.0
    """Waiting for the host to launch kernels."""
    tensor: float = 0.0
    """Communication of tensor-parallel ranks."""
    data: float = 0.0
    """Communication of data-parallel ranks that no backward pass hides."""
    optimizer: float = 0.0
    """The update of the weights."""

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        """Seconds by name, in the order of the fields."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __add__(self, other: "StepTime") -> "StepTime":
        theirs = other.parts()
        return StepTime(*(seconds + theirs[name] for name, seconds in self.parts().items()))

    def times(self, factor: float) -> "StepTime":
        """So many times as long."""
        return StepTime(*(seconds * factor for seconds in self.parts().values()))


@dataclass(frozen=True)
class Rates:
    """An accelerator and what is assumed of its use."""

    accelerator: Accelerator
    utilization: float = DEFAULT_UTILIZATION
    """Share of the table's rate that the model's matrix products reach."""
    launch_s: float = LAUNCH_S
    """Host seconds of a kernel."""


def micro_batch_work(
    passes: tuple[NetworkPass, ...], trained: Trained, micro_rows: int, tp_size: int
) -> Work:
    """What a rank does in a micro-batch, the sum of its gradients included."""
    total = Work()
    for one in passes:
        total += work_of(one, trained, micro_rows, tp_size)
    added = accumulation_work(
        *(trained.parameters / tp_size, trained.num_tensors),
        *(trained.value_bytes, trained.has_flat_gradients),
    )
    return total + added


def step_time(
    passes: tuple[NetworkPass, ...],
    trained: Trained,
    micro_rows: int,
    accumulation: int,
    rank: Rank,
    rates: Rates,
) -> StepTime:
    """Seconds of a step of `accumulation` micro-batches of `micro_rows` rows on each rank.

    Raises ConfigError for a number format that the accelerator has no matrix units for.
    """
    each = micro_batch_time(passes, trained, micro_rows, rank.tp_size, rates)
    return each.times(accumulation) + update_time(trained, accumulation, rank, rates, each)


def micro_batch_time(
    passes: tuple[NetworkPass, ...],
    trained: Trained,
    micro_rows: int,
    tp_size: int,
    rates: Rates,
) -> StepTime:
    """Seconds of the forward and backward passes of a micro-batch; the errors are those of
    `step_time`."""
    found = rates.accelerator
    work = micro_batch_work(passes, trained, micro_rows, tp_size)
    matrix = work.matrix_flops / (found.matrix_flops(trained.precision) * rates.utilization)
    traffic = work.traffic_bytes / found.stream_bytes_s
    tensor = work.tp_bytes / found.link_bytes_s + work.tp_calls * found.link_latency_s
    launches = GRAPH_LAUNCHES if trained.compute.cuda_graphs == "on" else work.launches
    launching = launches * rates.launch_s
    launching *= SHARDED_GRADIENTS if trained.zero_stage > 1 else 1
    host = max(0.0, launching - matrix - traffic - tensor)
    return StepTime(matrix, traffic, host, tensor)


def update_time(
    trained: Trained, accumulation: int, rank: Rank, rates: Rates, last: StepTime
) -> StepTime:
    """Seconds of a step beside its `accumulation` micro-batches: gradients and weights over the
    data-parallel ranks, and the optimizer.

    `last`: the last micro-batch, whose backward pass hides reductions, though not beside messages
    of tensor-parallel ranks; nothing is hidden by an empty one.
    """
    again = trained.compute.activation_checkpointing.type == "layers"
    backward_s = (3 / 4 if again else 2 / 3) * (last.matrix + last.traffic + last.host)
    return StepTime(
        data=_data_parallel_s(
            trained, accumulation, rank, _network(rank, rates.accelerator), backward_s
        ),
        optimizer=_optimizer_s(trained, rank, rates),
    )


def data_parallel_bytes(trained: Trained, accumulation: int, tp_size: int, dp_size: int) -> float:
    """Bytes that a rank sends to its data-parallel peers in a step, by rings.

    fp32 gradients: at ZeRO 1 a reduce-scatter a step (an all-reduce where they are not flat or a
    rank gets few), at ZeRO 2 an all-reduce and at ZeRO 3 a reduce-scatter a micro-batch; weights:
    an all-gather a step, at ZeRO 3 one for each pass of a micro-batch.
    """
    values = trained.parameters / tp_size
    ring = (dp_size - 1) / dp_size
    weights = values * trained.value_bytes
    if trained.zero_stage == 3:
        near, everywhere = gathered_bytes(trained, accumulation, tp_size, dp_size)
        return ring * accumulation * 4 * values + near + everywhere
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
    """Gradients in each bucket of ZeRO 1 in bf16, in the order in which they are complete.

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


def _data_parallel_s(
    trained: Trained, accumulation: int, rank: Rank, network: _Network, backward_s: float
) -> float:
    """`backward_s`: what the last backward pass of a step can hide of reductions."""
    if rank.dp_size == 1:
        return 0.0
    sent_s = data_parallel_bytes(trained, accumulation, rank.tp_size, rank.dp_size)
    sent_s /= network.bytes_s
    if trained.has_flat_gradients:
        latencies = [
            network.ring_s if _scatters(values, rank.dp_size) else network.tree_s
            for values in _bucket_values(trained, rank.tp_size, rank.dp_size)
        ]
        share = (rank.dp_size - 1) / rank.dp_size / network.bytes_s
        sizes = _reduced_bytes(trained, rank.tp_size, rank.dp_size)
        # All but the last bucket, which is complete when the pass ends.
        early_s = sum(latencies[:-1]) + share * sum(sizes[:-1])
        # The group without weight decay, and the weights' one all-gather.
        waiting = sum(latencies) + network.tree_s + network.ring_s
        return sent_s + waiting - min(early_s, backward_s)
    buckets = math.ceil(trained.parameters / rank.tp_size / BUCKET_VALUES)
    if trained.zero_stage == 3:
        calls = accumulation * (buckets + trained.num_tensors)
        return sent_s + calls * network.ring_s - _saved_near_s(trained, accumulation, rank, network)
    times = accumulation if trained.zero_stage == 2 else 1
    return sent_s + buckets * (times * network.tree_s + network.ring_s)


def _saved_near_s(trained: Trained, accumulation: int, rank: Rank, network: _Network) -> float:
    """What copies of the weights inside nodes save of a step at ZeRO 3."""
    if trained.gather_ranks is None or trained.gather_ranks * rank.tp_size > rank.gpus_per_node:
        return 0.0
    near, _ = gathered_bytes(trained, accumulation, rank.tp_size, rank.dp_size)
    near_calls = accumulation * trained.num_tensors * (1 - 1 / _passes(trained, accumulation))
    near_ring_s = COLLECTIVE_S + trained.gather_ranks * LINK_HOP_S
    saved_s = near * (1 / network.bytes_s - 1 / network.link_bytes_s)
    return saved_s + near_calls * (network.ring_s - near_ring_s)


def _optimizer_s(trained: Trained, rank: Rank, rates: Rates) -> float:
    """Norm, clipping and update of a rank's share: gradients read three times, state once both
    ways, weights written."""
    values = trained.parameters / rank.tp_size / rank.dp_size
    state = trained.optimizer.state_bytes(values, trained.in_matrices / rank.tp_size / rank.dp_size)
    moved = 12 * values + 2 * state + trained.value_bytes * values
    rate = HOST_BYTES_S if trained.offloads else rates.accelerator.stream_bytes_s
    own = trained.update_flops / (rank.tp_size * rank.dp_size)
    in_products = own / (rates.accelerator.matrix_flops("fp32") * rates.utilization) if own else 0
    return moved / rate + in_products
