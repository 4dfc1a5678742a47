"""The time of an optimizer step from counts and rates, split into its parts.

    matrix    = operations / (measured rate x utilization)
    traffic   = bytes of all other operators / (memory bandwidth x 0.9)
    tensor    = bytes sent / link + collectives x latency
    host      = kernels x time to launch one, as far as it is longer than matrix + traffic + tensor
    data      = bytes sent / min(link, network of a node / tensor-parallel size) + latencies, at
                ZeRO 1 less what the first forward and the last backward pass hide
    optimizer = its state and gradients, read and written once, and its own matrix products

All but `optimizer` and, at ZeRO 1, `data` are counted once a micro-batch. Nothing else is assumed
to overlap but the host with the accelerator.
"""

from dataclasses import dataclass, fields

from pipeline.planning.accelerators import Accelerator
from pipeline.planning.data_parallel import Hidden, Rank, Trained, data_parallel_s
from pipeline.planning.work import NetworkPass, Work, accumulation_work, work_of

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
HOST_BYTES_S = 20e9
"""Bytes a second of a rank's optimizer step in host memory (assumed)."""


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
    """Communication of data-parallel ranks that no pass hides."""
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
    return each.times(accumulation) + update_time(trained, accumulation, rank, rates, each, each)


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
    trained: Trained,
    accumulation: int,
    rank: Rank,
    rates: Rates,
    first: StepTime,
    last: StepTime,
) -> StepTime:
    """Seconds of a step beside its `accumulation` micro-batches: gradients and weights over the
    data-parallel ranks, and the optimizer.

    `first`: the first micro-batch, whose forward pass hides messages of new weights; `last`: the
    last one, whose backward pass hides reductions. Neither does beside messages of tensor-parallel
    ranks, in a graph, or if it is empty.
    """
    again = trained.compute.activation_checkpointing.type == "layers"
    forward = 1 / 4 if again else 1 / 3
    hidden = Hidden(forward * _alone_s(first), (1 - forward) * _alone_s(last))
    if trained.compute.cuda_graphs == "on":
        hidden = Hidden(0.0, 0.0)
    return StepTime(
        data=data_parallel_s(trained, accumulation, rank, rates.accelerator, hidden),
        optimizer=_optimizer_s(trained, rank, rates),
    )


def _alone_s(micro_batch: StepTime) -> float:
    """Seconds in which the network is free."""
    return micro_batch.matrix + micro_batch.traffic + micro_batch.host


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
