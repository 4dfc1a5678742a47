"""The TP x DP grid of ranks, and the only user of megatron-core's parallel state."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from configs.load import ConfigError
from model.parallel.megatron import layers as megatron_layers
from model.parallel.megatron import parallel_state


@dataclass(frozen=True)
class Grid:
    """This rank's place among tensor- and data-parallel ranks; the `mpu` that DeepSpeed asks for.

    Consecutive ranks are tensor-parallel peers: rank = dp_rank x tp_size + tp_rank. DeepSpeed
    probes an mpu with `hasattr`, so every method that it may call is spelled out.
    """

    rank: int
    world_size: int
    tp_rank: int
    tp_size: int
    dp_rank: int
    dp_size: int
    device: torch.device
    tp_group: Any
    dp_group: Any
    sequence_parallel: bool = False
    """Whether hidden states between blocks are sharded by tokens over tensor-parallel ranks."""

    def with_sequence_parallel(self, wanted: bool) -> "Grid":
        """The same ranks with or without sequence parallelism, which takes two ranks at least."""
        return dataclasses.replace(self, sequence_parallel=wanted and self.tp_size > 1)

    @property
    def token_shard(self) -> tuple[int, int]:
        """(index, count) of this rank's part of the tokens between blocks: (0, 1) is all."""
        return (self.tp_rank, self.tp_size) if self.sequence_parallel else (0, 1)

    @property
    def tp_shard(self) -> tuple[int, int]:
        """(index, count) of this rank's shard of the tensor-parallel parameters."""
        return self.tp_rank, self.tp_size

    def local_size(self, size: int) -> int:
        """This rank's share of a `size` that is sharded over tensor-parallel ranks.

        The planner has checked that it divides (`model.config.check_grid`).
        """
        assert size % self.tp_size == 0, f"{size} is not divisible by {self.tp_size} ranks"
        return size // self.tp_size

    def get_model_parallel_rank(self) -> int:
        return self.tp_rank

    def get_model_parallel_world_size(self) -> int:
        return self.tp_size

    def get_model_parallel_group(self) -> Any:
        return self.tp_group

    def get_tensor_model_parallel_rank(self) -> int:
        return self.tp_rank

    def get_tensor_model_parallel_world_size(self) -> int:
        return self.tp_size

    def get_tensor_model_parallel_group(self) -> Any:
        return self.tp_group

    def get_tensor_model_parallel_src_rank(self) -> int:
        return self.dp_rank * self.tp_size

    def get_data_parallel_rank(self) -> int:
        return self.dp_rank

    def get_data_parallel_world_size(self) -> int:
        return self.dp_size

    def get_data_parallel_group(self) -> Any:
        return self.dp_group

    def get_data_parallel_group_ranks(self) -> list[int]:
        return list(range(self.tp_rank, self.world_size, self.tp_size))

    def get_pipeline_model_parallel_world_size(self) -> int:
        return 1

    def get_pipeline_model_parallel_rank(self) -> int:
        return 0


def make_grid(tp_size: int) -> Grid:
    """The grid over all ranks of the initialised torch.distributed world.

    Raises ConfigError if the world does not divide into groups of `tp_size`.
    """
    world_size, rank = dist.get_world_size(), dist.get_rank()
    if tp_size < 1 or world_size % tp_size:
        divisors = ", ".join(str(n) for n in range(1, world_size + 1) if world_size % n == 0)
        raise ConfigError(
            f"{world_size} rank(s) do not divide into tensor-parallel groups of {tp_size}; "
            f"tensor-parallel sizes that fit: {divisors}"
        )
    _let_megatron_run_without_cuda()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=tp_size, order="tp-cp-ep-dp-pp", create_gloo_process_groups=False
    )
    return Grid(
        rank=rank,
        world_size=world_size,
        tp_rank=rank % tp_size,
        tp_size=tp_size,
        dp_rank=rank // tp_size,
        dp_size=world_size // tp_size,
        device=_device(),
        tp_group=parallel_state.get_tensor_model_parallel_group(),
        dp_group=parallel_state.get_data_parallel_group(),
    )


def close_grid() -> None:
    """Destroys megatron-core's process groups, so that a new grid can be made."""
    parallel_state.destroy_model_parallel()


@contextlib.contextmanager
def single_rank_grid() -> Iterator[Grid]:
    """A grid of this process alone, for export, import and tools that no launcher started.

    Initialises torch.distributed (gloo, no network) if that has not been done, and undoes on exit
    what it has done.
    """
    starts_world = not dist.is_initialized()
    if starts_world:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # no other machine can connect
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield make_grid(tp_size=1)
    finally:
        close_grid()
        if starts_world:
            dist.destroy_process_group()


def _device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


@functools.cache
def _let_megatron_run_without_cuda() -> None:
    """Patches megatron-core to run on gloo; does nothing where CUDA is available.

    Reason: its sequence-parallel layers and gathers allocate on `torch.cuda.current_device()`,
    which raises without CUDA; everything else in them runs on gloo. Upstream: NVIDIA/Megatron-LM
    core_v0.16.1, megatron/core/tensor_parallel/layers.py and mappings.py, megatron/core/utils.py.
    To be removed when they use the input's device; test_megatron.py then fails. The patch stands
    here and not with the engine's because the model cannot be built without it.
    """
    if torch.cuda.is_available():
        return
    current_device: Callable[[], Any] = functools.partial(torch.device, "cpu")
    torch.cuda.current_device = current_device
    # Without CUDA its advice to set CUDA_DEVICE_MAX_CONNECTIONS is of no use.
    megatron_layers.linear_with_grad_accumulation_and_async_allreduce.warned = True
