"""Every patch of DeepSpeed and torch that training needs, each in a function of its own.

A patch names its reason, the place upstream (file and function, DeepSpeed 0.19.8) and the condition
for its removal. `tests/pipeline/engine/test_deepspeed_compat.py` holds one test for each, which
shows what happens without the patch and fails when it is no longer needed.
"""

import contextlib
import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from model.parallel.grid import Grid

if TYPE_CHECKING:
    from pipeline.engine.flat_gradients import FlatGradientOptimizer


def import_deepspeed() -> Any:
    """The module `deepspeed`, imported without MLflow.

    Reason: its autotuner, which nothing here uses, imports MLflow where that is installed: three
    quarters of the processor time of importing DeepSpeed, on every rank.
    Upstream: `try: import mlflow` in autotuning/autotuner.py.
    Remove when: `import deepspeed` leaves `mlflow` alone.
    """
    hides = not {"deepspeed", "mlflow"} & sys.modules.keys()
    if hides:
        sys.modules["mlflow"] = None  # type: ignore[assignment]  # importing it fails
    try:
        import deepspeed
    finally:
        if hides:
            del sys.modules["mlflow"]
    return deepspeed


def use_accelerator_of(device: torch.device) -> None:
    """Makes DeepSpeed's accelerator the one of `device`.

    Reason: DeepSpeed detects its accelerator once per process and keeps it over a fork, so CPU
    ranks forked by a parent that sees GPUs would run DeepSpeed's CUDA code.
    Upstream: `get_accelerator` in accelerator/real_accelerator.py.
    Remove when: `get_accelerator` detects again in a forked process.
    """
    from deepspeed.accelerator import get_accelerator, set_accelerator

    if device.type == "cpu" and get_accelerator().device_name() != "cpu":
        from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

        set_accelerator(CPU_Accelerator())


def allow_fp16_on_cpu() -> None:
    """Makes DeepSpeed accept fp16 on every CPU, as the tests of loss scaling need.

    Reason: it refuses fp16 on CPUs without fp16 instructions, though torch computes it there.
    Upstream: `_do_sanity_check` in runtime/engine.py and `is_fp16_supported` in
    accelerator/cpu_accelerator.py.
    Remove when: the CPU accelerator supports fp16 wherever torch does.
    """
    from deepspeed.accelerator import get_accelerator

    if not torch.cuda.is_available():
        get_accelerator().is_fp16_supported = lambda: True


def skip_shared_memory_extension() -> None:
    """Keeps DeepSpeed from compiling its shared-memory communication for CPU ranks.

    Reason: it serves inference only, yet `init_distributed` builds it with a C++ compiler (a minute
    at the first start), and a rank killed meanwhile leaves a lock that hangs all later starts.
    Upstream: `build_shm_op` in comm/torch.py, called by `TorchBackend.__init__`.
    Remove when: the extension is built at its first use, or an option turns it off.
    """
    import_deepspeed().ops.__compatible_ops__["deepspeed_shm_comm"] = False


@contextlib.contextmanager
def flat_gradients() -> Iterator[None]:
    """Has `deepspeed.initialize` make a `FlatGradientOptimizer` for ZeRO 1 without offloading.

    Reason: DeepSpeed's own optimizers send twice the bytes (an all-reduce of all gradients, in a
    copy) after the backward pass, and compute the norm of all gradients on every rank, two kernels
    a parameter. The one that this is built on is theirs for bf16 alone.
    Upstream: `_do_optimizer_sanity_check`, `_configure_bf16_optimizer` and
    `buffered_allreduce_fallback` in runtime/engine.py, `step` in runtime/bf16_optimizer.py.
    Remove when: its optimizers of ZeRO 1 reduce by reduce-scatter during the backward pass.
    """
    from deepspeed.runtime import engine

    from pipeline.engine.flat_gradients import FlatGradientOptimizer

    made_for = engine.DeepSpeedEngine._do_optimizer_sanity_check

    def kind(self: Any, optimizer: Any) -> Any:
        is_stage_1 = self.zero_optimization_stage() == 1 and not self.zero_cpu_offload()
        return engine.BFLOAT16 if is_stage_1 else made_for(self, optimizer)

    with (
        _replaced(engine, "BF16_Optimizer", FlatGradientOptimizer),
        _replaced(engine.DeepSpeedEngine, "_do_optimizer_sanity_check", kind),
    ):
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute has another value meanwhile."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def as_flat_gradients(optimizer: Any) -> "FlatGradientOptimizer | None":
    """`optimizer` if `flat_gradients` had it made, else None."""
    from pipeline.engine.flat_gradients import FlatGradientOptimizer

    return optimizer if isinstance(optimizer, FlatGradientOptimizer) else None


def backward_reduced_once(engine: Any, loss: Any, is_last: bool) -> None:
    """Adds the gradients of `loss` to those on this rank, which are reduced after the last pass.

    Reason: `coalesce_grad_reduction` holds for the passes of one block and reduces at its end, also
    where an error or a signal to stop leaves it, when peers may not take part.
    Upstream: `coalesce_grad_reduction` in runtime/engine.py.
    Remove when: it takes a pass at a time.
    """
    with (
        _replaced(engine, "inside_no_sync_ctxt", True),
        _replaced(engine.optimizer, "_coalesce_grad_reduction", True),
    ):
        engine.backward(loss, scale_wrt_gas=False)
    if is_last:
        with engine.coalesce_grad_reduction():
            pass  # at its end gradients are reduced


@contextlib.contextmanager
def gathering_ranks(grid: Grid, size: int | None) -> Iterator[Any]:
    """Has `deepspeed.initialize` keep copies of weights in groups of `size` data-parallel ranks.

    Gives the process group of this rank, to be destroyed after the engine; None without a `size`.

    Reason: DeepSpeed takes consecutive ranks of the launch, also where those are tensor-parallel
    peers with other weights; and its second engine in a process finds the group of the first.
    Upstream: `_create_zero_param_parallel_group` in utils/groups.py.
    Remove when: it asks the `mpu` for the data-parallel ranks.
    """
    if size is None:
        yield None
        return
    from deepspeed.utils import groups

    mine = None
    for tp_rank in range(grid.tp_size):
        for first in range(0, grid.dp_size, size):
            ranks = [dp * grid.tp_size + tp_rank for dp in range(first, first + size)]
            group = torch.distributed.new_group(ranks)  # all ranks make every group
            if tp_rank == grid.tp_rank and first <= grid.dp_rank < first + size:
                mine = group
    with _replaced(groups, "_ZERO_PARAM_INTRA_PARALLEL_GROUP", mine):
        yield mine


def hide_old_names_of_collectives() -> None:
    """Hides torch's warnings that two collectives are called by their names before torch 2.13.

    Reason: a launch with data-parallel ranks would start with two lines of each of them from every
    rank, about calls that are not this project's.
    Upstream: `get_all_gather_function` and `get_reduce_scatter_function` in comm/torch.py;
    megatron-core 0.16.1 has the same names in tensor_parallel/layers.py and mappings.py.
    Remove when: both call `all_gather_single` and `reduce_scatter_single`.
    """
    for name in ("all_gather_into_tensor", "reduce_scatter_tensor"):
        message = re.escape(f"`torch.distributed.{name}` is deprecated.")
        warnings.filterwarnings("ignore", message, FutureWarning)


def quiet_logs() -> None:
    """Turns DeepSpeed's progress messages off; warnings and errors stay."""
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)


@contextlib.contextmanager
def without_start_messages() -> Iterator[None]:
    """Drops what DeepSpeed prints while it starts.

    Memory sizes, "built successfully", and that an optimizer of ours was not tested with ZeRO.
    """
    from deepspeed.utils import logger

    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
