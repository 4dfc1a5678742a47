"""`parallel.zero_gather_ranks`: the bits of ZeRO 3, from weights that neighbours hold together."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from configs.load import ConfigError
from model.heads import build_masked_lm
from model.parallel.grid import make_grid
from pipeline.engine import deepspeed_start
from pipeline.engine.deepspeed_engine import Engine
from pipeline.engine.deepspeed_start import deepspeed_config
from pipeline.run.config import ParallelConfig, TrainConfig
from pipeline.run.plan import data_parallel_size
from tests.gloo import run_ranks
from tests.pipeline.training_run import (
    assert_same_bits,
    final_state,
    make_config,
    make_rows,
    metrics,
    pretrain,
)

STEPS, ACCUMULATION = 4, 2
SHARDED = {
    "stage3_param_persistence_threshold": 0,
    "stage3_max_live_parameters": 1,
    "stage3_max_reuse_distance": 1,
    "stage3_prefetch_bucket_size": 0,
}
"""Settings of DeepSpeed under which a small model's weights are freed after use, as large ones."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder)
    return folder


@pytest.fixture(autouse=True)
def sharded(monkeypatch: pytest.MonkeyPatch) -> None:
    original = deepspeed_config

    def changed(*arguments: Any) -> dict[str, Any]:
        found = original(*arguments)
        found["zero_optimization"] |= SHARDED
        return found

    monkeypatch.setattr(deepspeed_start, "deepspeed_config", changed)


def config_of(rows: Path, output: Path, steps: int = STEPS, **parallel: Any) -> TrainConfig:
    again = parallel.pop("recomputed", "none")
    return make_config(
        *(rows, output),
        precision="bf16",
        batch={"global_rows": 16, "micro_rows": 16 // 4 // ACCUMULATION},
        total_rows=16 * steps,
        schedule={"type": "constant"},
        parallel={"zero_stage": 3, **parallel},
        compute={"activation_checkpointing": {"type": again}},
        evaluation={"every_steps": 100, "rows_per_source": 2},
    )


class Gathered(TorchDispatchMode):
    """Counts the gatherings of weights by the number of ranks."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[int] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.c10d._allgather_base_.default and args[0].dtype == torch.bfloat16:
            self.calls[dist.ProcessGroup.unbox(args[2]).size()] += 1
        return func(*args, **(kwargs or {}))


def counted(config: TrainConfig) -> Counter[int]:
    gathered = Gathered()
    with gathered:
        pretrain(config)
    return gathered.calls


@pytest.mark.parametrize(
    "layout", [{}, {"tensor": 2}, {"recomputed": "selective"}, {"offload_optimizer": True}], ids=str
)
def test_neighbours_gather_the_same_bits(
    rows: Path, tmp_path: Path, layout: dict[str, Any]
) -> None:
    plain = config_of(rows, tmp_path / "plain", **layout)
    near = config_of(rows, tmp_path / "near", zero_gather_ranks=2, **layout)
    run_ranks(pretrain, 4, plain)
    run_ranks(pretrain, 4, near)
    assert_same_bits(final_state(plain), final_state(near))
    for name in ("loss", "gradient_norm"):
        assert metrics(plain, name) == metrics(near, name)


def test_all_gatherings_but_the_first_of_a_step_are_of_neighbours(
    rows: Path, tmp_path: Path
) -> None:
    plain = run_ranks(counted, 4, config_of(rows, tmp_path / "plain"))[0]
    near = run_ranks(counted, 4, config_of(rows, tmp_path / "near", zero_gather_ranks=2))[0]
    assert plain.total() == plain[4] == near.total()
    # A micro-batch gathers twice. The last gathering of all is that of the evaluation.
    share = 1 / (2 * ACCUMULATION)
    assert near[4] / near.total() == pytest.approx(share, abs=0.06)


@pytest.mark.parametrize(
    ("ranks", "layout"),
    [(4, {"zero_gather_ranks": 2}), (2, {"zero_gather_ranks": 2}), (2, {"zero_stage": 1})],
    ids=str,
)
def test_a_run_goes_on_in_another_layout(
    rows: Path, tmp_path: Path, ranks: int, layout: dict[str, Any]
) -> None:
    """To the bit on the same ranks; into and from other layouts up to rounding."""
    whole = config_of(rows, tmp_path / "whole", zero_gather_ranks=2)
    run_ranks(pretrain, 4, whole)
    for before, after in ((None, layout), (layout, None)):
        output = tmp_path / f"resumed-{before is None}"
        for steps, given in ((STEPS // 2, before), (STEPS, after)):
            here = {"zero_gather_ranks": 2} if given is None else given
            config = config_of(rows, output, steps, **here)
            run_ranks(pretrain, 4 if given is None else ranks, config)
        if ranks == 4:
            assert_same_bits(final_state(whole), final_state(config))
        assert metrics(config, "loss") == pytest.approx(metrics(whole, "loss"), abs=2e-3)


def test_ranks_that_do_not_divide_are_refused() -> None:
    parallel = ParallelConfig(tensor=2, zero_stage=3, zero_gather_ranks=3)
    assert data_parallel_size(parallel, 12) == 6
    with pytest.raises(ConfigError, match=r"zero_gather_ranks 3 does not divide 8, .* 2 or 4"):
        data_parallel_size(parallel, 16)
    with pytest.raises(ConfigError, match=r"does not divide 1, .* null$"):
        data_parallel_size(parallel, 2)
    with pytest.raises(ValueError, match=r"zero_gather_ranks 2 needs zero_stage 3 \(now 1\)"):
        ParallelConfig(zero_gather_ranks=2)


def groups_after_closing(config: TrainConfig) -> tuple[int, int]:
    """Process groups after one and after four engines in a row, as after three rollbacks."""
    grid = make_grid(1)
    counts = []
    for _ in range(4):
        model = build_masked_lm(config.model, 250, grid, config.seed, config.compute)
        Engine(model, config, ACCUMULATION, grid, [config.optimizer]).close()
        counts.append(len(dist.distributed_c10d._world.pg_map))
    return counts[0], counts[-1]


def test_a_closed_engine_leaves_no_process_group(rows: Path, tmp_path: Path) -> None:
    config = config_of(rows, tmp_path / "run", zero_gather_ranks=2)
    for first, last in run_ranks(groups_after_closing, 4, config):
        assert first == last
