"""Each patch of DeepSpeed is still needed: what happens without it, and that it helps.

A test that fails here after an update says that its patch in `pipeline.engine.deepspeed_compat` can
be removed.
"""

import importlib
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import deepspeed
import pytest
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator, set_accelerator
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator
from torch import nn

from model.parallel.grid import make_grid
from pipeline.engine import deepspeed_compat
from tests.gloo import in_one_rank, run_ranks

CPU = torch.device("cpu")


def engine_of(model: nn.Module, stage: int, precision: str = "bf16", **more: Any) -> Any:
    """DeepSpeed's engine with two parameter groups, as this project's optimizers have."""
    deepspeed_compat.skip_shared_memory_extension()
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed}, {"params": plain}]
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(groups, lr=1e-2),
        config={
            "train_micro_batch_size_per_gpu": 1,
            precision: {"enabled": precision != "fp32"} | more,
            "data_types": {"grad_accum_dtype": "fp32"},
            "zero_optimization": {"stage": stage},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        },
        dist_init_required=False,
    )
    return engine


def take_step(engine: Any) -> None:
    """One optimizer step on constant inputs."""
    weight = next(iter(engine.module.parameters()))
    inputs = torch.ones((1, engine.module.in_features), dtype=weight.dtype)
    engine.backward(engine(inputs).float().sum())
    engine.step()


def ranks_with_copies() -> tuple[list[int], list[int]]:
    """The ranks that keep a copy of weights with this one: by DeepSpeed, and with the patch."""
    from deepspeed.utils import groups

    deepspeed_compat.skip_shared_memory_extension()
    deepspeed.init_distributed("gloo", dist_init_required=False)
    grid = make_grid(2)
    groups._create_zero_param_parallel_group(2)
    own = dist.get_process_group_ranks(groups._get_zero_param_intra_parallel_group())
    with pytest.raises(AssertionError, match="already initialized"):  # a second engine
        groups._create_zero_param_parallel_group(2)
    groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = None
    for _ in range(2):
        with deepspeed_compat.gathering_ranks(grid, 2):
            mine = dist.get_process_group_ranks(groups._get_zero_param_intra_parallel_group())
    assert groups._get_zero_param_intra_parallel_group() is None
    return own, mine


def test_copies_of_weights_are_kept_with_tensor_parallel_peers() -> None:
    """Which hold other weights: data-parallel ranks are every second one here."""
    found = run_ranks(ranks_with_copies, 4)
    assert [own for own, _ in found] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert [mine for _, mine in found] == [[0, 2], [1, 3], [0, 2], [1, 3]]


@in_one_rank
def test_the_accelerator_is_kept_over_a_fork() -> None:
    set_accelerator(CUDA_Accelerator())  # as in a parent that sees GPUs
    pid = os.fork()
    if not pid:
        is_kept = get_accelerator().device_name() == "cuda"
        deepspeed_compat.use_accelerator_of(CPU)
        is_fixed = get_accelerator().device_name() == "cpu"
        os._exit(0 if is_kept and is_fixed else 1)
    _, status = os.waitpid(pid, 0)
    assert status == 0


@in_one_rank
def test_fp16_is_refused_on_this_cpu() -> None:
    set_accelerator(CPU_Accelerator())
    if get_accelerator().is_fp16_supported():
        pytest.skip("this CPU has fp16 instructions")
    with pytest.raises(ValueError, match="fp16 is not supported"):
        engine_of(nn.Linear(4, 2), stage=1, precision="fp16")
    deepspeed_compat.allow_fp16_on_cpu()
    take_step(engine_of(nn.Linear(4, 2), stage=1, precision="fp16"))


@in_one_rank
def test_a_shared_memory_extension_would_be_compiled() -> None:
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    backend = importlib.import_module("deepspeed.comm.torch")
    set_accelerator(CPU_Accelerator())
    loaded = []
    ShareMemCommBuilder.load = lambda builder: loaded.append(builder.NAME)
    backend.build_shm_op()
    assert loaded == ["deepspeed_shm_comm"]
    deepspeed_compat.skip_shared_memory_extension()
    assert backend.build_shm_op() is None
    assert len(loaded) == 1


def test_deepspeed_would_import_mlflow() -> None:
    without = "from pipeline.engine import deepspeed_compat; deepspeed_compat.import_deepspeed()"
    imports = {"import deepspeed": True, without: False, f"import mlflow; {without}": True}
    for code, expected in imports.items():
        command = [sys.executable, "-c", f"import sys; {code}; print('mlflow' in sys.modules)"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.split()[-1] == str(expected), code


def test_mlflow_can_be_imported_after_deepspeed() -> None:
    code = (
        "from pipeline.engine import deepspeed_compat; deepspeed_compat.import_deepspeed(); "
        "import mlflow; print(mlflow.__version__)"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


@in_one_rank
def test_deepspeed_reduces_bf16_gradients_by_all_reduce() -> None:
    own = engine_of(nn.Linear(4, 2), stage=1)
    assert not hasattr(own.optimizer, "reduce_gradients"), "what reduces them now?"


def kind_of_optimizer(stage: int, precision: str) -> str:
    return type(engine_of(nn.Linear(4, 2), stage, precision).optimizer).__name__


@in_one_rank
def test_flat_gradients_are_those_of_zero_1_in_every_precision() -> None:
    deepspeed_compat.allow_fp16_on_cpu()
    for precision in ("fp32", "fp16", "bf16"):
        for stage, is_flat in ((1, True), (2, False)):
            own = kind_of_optimizer(stage, precision)
            with deepspeed_compat.flat_gradients():
                patched = kind_of_optimizer(stage, precision)
            assert own != "FlatGradientOptimizer"
            assert patched == ("FlatGradientOptimizer" if is_flat else own)
            assert kind_of_optimizer(stage, precision) == own


@in_one_rank
def test_collectives_are_called_by_their_old_names() -> None:
    backend = importlib.import_module("deepspeed.comm.torch").TorchBackend
    calls = {
        "all_gather_into_tensor": backend.get_all_gather_function(),
        "reduce_scatter_tensor": backend.get_reduce_scatter_function(),
    }
    for name, call in calls.items():
        with pytest.warns(FutureWarning, match=f"^`torch.distributed.{name}` is deprecated"):
            call(torch.empty(1), torch.ones(1))
    with warnings.catch_warnings(record=True) as others:
        warnings.simplefilter("always")
        deepspeed_compat.hide_old_names_of_collectives()
        for call in calls.values():
            call(torch.empty(1), torch.ones(1))
        warnings.warn("`torch.distributed.reduce_op` is deprecated", FutureWarning, stacklevel=1)
    assert ["reduce_op" in str(other.message) for other in others] == [True]


@in_one_rank
def test_gradients_that_are_reduced_once_are_not_reduced_when_a_step_is_left() -> None:
    reduced: list[int] = []

    def engine_at_zero_3() -> tuple[Any, Any]:
        engine = engine_of(nn.Linear(4, 2), stage=3)
        reduce = engine.optimizer.reduce_ready_partitions_and_remove_grads

        def noted(parameter: Any) -> None:
            reduced.append(not engine.optimizer._coalesce_grad_reduction)
            reduce(parameter)

        engine.optimizer.reduce_ready_partitions_and_remove_grads = noted
        return engine, engine(torch.ones((1, 4), dtype=torch.bfloat16)).float().sum()

    def leave(engine: Any, loss: Any) -> None:
        with engine.coalesce_grad_reduction():
            engine.backward(loss)
            raise KeyError("left")

    with pytest.raises(KeyError):
        leave(*engine_at_zero_3())
    assert any(reduced), "DeepSpeed does not reduce after an error now?"
    reduced.clear()
    engine, loss = engine_at_zero_3()
    deepspeed_compat.backward_reduced_once(engine, loss, is_last=False)
    assert reduced
    assert not any(reduced)
    loss = engine(torch.ones((1, 4), dtype=torch.bfloat16)).float().sum()
    deepspeed_compat.backward_reduced_once(engine, loss, is_last=True)
    assert any(reduced)


def test_every_patch_has_a_test() -> None:
    """Each public function of the module with a "Reason:" is called from this file."""
    text = Path(__file__).read_text()
    patches = [
        name
        for name, function in vars(deepspeed_compat).items()
        if "Reason:" in (getattr(function, "__doc__", None) or "") and callable(function)
    ]
    assert len(patches) == 8
    for name in patches:
        documentation = getattr(deepspeed_compat, name).__doc__
        assert "Upstream:" in documentation
        assert "Remove when:" in documentation
        assert f"deepspeed_compat.{name}(" in text
