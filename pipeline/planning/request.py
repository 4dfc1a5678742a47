"""What the planner is asked: on which launch, and at which rates."""

from dataclasses import dataclass

from configs.load import ConfigError
from pipeline.planning.accelerators import Accelerator
from pipeline.planning.costs import STORAGE_BYTES_S
from pipeline.planning.step_time import DEFAULT_UTILIZATION, Rates

RANKS_OPTION, CPU_RANKS_OPTION = "--gpus-per-node", "--ranks-per-node"
"""Two names of one option."""


@dataclass(frozen=True)
class PlanRequest:
    """The launch to plan for, and what is known of its machines. Raises ConfigError for numbers
    that cannot be."""

    num_nodes: int = 1
    gpus_per_node: int = 1
    """Ranks of a node."""
    assumes_ranks: bool = False
    """Whether nobody said how many ranks a node has."""
    gpu_memory_gb: float | None = None
    """A run that needs more is refused; None: as the accelerator has, if one is given."""
    tokens_per_s: float | None = None
    """Measured throughput of one accelerator."""
    on_cpu: bool = False
    """The ranks are on CPUs: their memory is that of processes."""
    accelerator: Accelerator | None = None
    utilization: float = DEFAULT_UTILIZATION
    """Share of the accelerator's measured rate that matrix products of the model reach."""
    price_per_gpu_hour: float | None = None
    """In any currency."""
    storage_gb_s: float = STORAGE_BYTES_S / 1e9
    """What the file system of the checkpoints writes a second, 1e9 bytes."""

    def __post_init__(self) -> None:
        if self.num_nodes < 1 or self.gpus_per_node < 1:
            raise ConfigError(
                f"--nodes {self.num_nodes} {self.ranks_option} {self.gpus_per_node}: both must be "
                "at least 1"
            )
        if self.on_cpu and self.accelerator is not None:
            raise ConfigError(f"--cpu does not go with --accelerator {self.accelerator.name}")
        if not 0 < self.utilization <= 1:
            raise ConfigError(
                f"--utilization {self.utilization:g}: give a share above 0 and up to 1"
            )
        positive = {
            "--gpu-memory-gb": self.gpu_memory_gb,
            "--tokens-per-s": self.tokens_per_s,
            "--price-per-gpu-hour": self.price_per_gpu_hour,
            "--storage-gb-s": self.storage_gb_s,
        }
        for name, value in positive.items():
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{name} {value:g}: give a number above 0")

    @property
    def ranks_option(self) -> str:
        """The option that says how many ranks a node has."""
        return CPU_RANKS_OPTION if self.on_cpu else RANKS_OPTION

    def launch(self, num_nodes: int, gpus_per_node: int) -> str:
        """The options for another launch."""
        nodes = f"--nodes {num_nodes} " if num_nodes > 1 else ""
        return f"{nodes}{self.ranks_option} {gpus_per_node}"

    @property
    def own_launch(self) -> str:
        """The options for this launch."""
        return self.launch(self.num_nodes, self.gpus_per_node)

    def assumptions(self) -> list[str]:
        """What nobody said, a line each."""
        if not self.assumes_ranks:
            return []
        where = "processes on CPUs" if self.on_cpu else "with an accelerator each"
        given = f"{self.ranks_option} {self.gpus_per_node}"
        return [f"assumed: {given} ({where}), the fewest that parallel.tensor allows"]

    def check_tensor(self, tp_size: int) -> None:
        """Raises ConfigError if tensor-parallel ranks would not be of one node."""
        ranks = self.gpus_per_node
        if ranks % tp_size:
            nearest = [str(n * tp_size) for n in (ranks // tp_size, ranks // tp_size + 1) if n]
            raise ConfigError(
                f"parallel.tensor {tp_size} does not divide the {ranks} ranks of a node "
                f"({self.ranks_option} {ranks}): its all-reduces, four a layer, would go over the "
                f"network; plan for {self.ranks_option} {' or '.join(nearest)}, or change "
                "parallel.tensor"
            )

    @property
    def world_size(self) -> int:
        """Ranks of the launch."""
        return self.num_nodes * self.gpus_per_node

    @property
    def memory_gb(self) -> float | None:
        """The memory that the run has to fit into, 1e9 bytes; None: any."""
        if self.gpu_memory_gb is None and self.accelerator is not None:
            return self.accelerator.memory_gb
        return self.gpu_memory_gb

    @property
    def rates(self) -> Rates | None:
        """The rates of the accelerator; None if none is given."""
        return None if self.accelerator is None else Rates(self.accelerator, self.utilization)
