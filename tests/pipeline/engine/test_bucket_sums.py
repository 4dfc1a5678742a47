"""Gradients that are summed over ranks in buckets, during the backward pass."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from pipeline.engine import bucket_sums, deepspeed_start
from pipeline.engine.bucket_sums import BucketSums
from pipeline.pretraining.step import pretraining_step
from pipeline.run.config import TrainConfig
from tests.gloo import run_ranks
from tests.pipeline.engine.test_flat_gradients import (
    after_a_step_that_is_not_finite,
    batch_of,
    config_of,
    engine_of,
    grid_of,
)
from tests.pipeline.finetuning.finetune_run import (
    make_finetune_config,
    make_pretrained,
    run_finetuning,
)
from tests.pipeline.training_run import (
    SMALL_MODEL,
    assert_same_bits,
    final_state,
    make_config,
    make_rows,
    metrics,
    pretrain,
)

SMALL_BUCKET = 300_000


def with_small_buckets(
    function: Callable[..., Any], argument: Any, values: int = SMALL_BUCKET
) -> Any:
    """What `function` returns with buckets of `values`, the larger of which two ranks scatter."""
    size = mock.patch.object(deepspeed_start, "values_per_bucket", return_value=values)
    with size, mock.patch.object(bucket_sums, "SCATTERED_VALUES", round(0.6 * values)):
        return function(argument)


@contextlib.contextmanager
def noted_starts() -> Iterator[list[int]]:
    """A list to which each step adds how many buckets started before its last pass had ended."""
    started: list[int] = []
    finish = BucketSums.finish

    def noted(sums: BucketSums) -> None:
        started.append(len(sums._started))
        finish(sums)

    with mock.patch.object(BucketSums, "finish", noted):
        yield started


def started_early(config: TrainConfig) -> tuple[int, list[int]]:
    """(buckets, how many of them started early in each of two steps)."""
    engine = engine_of(config, grid_of(config))
    with noted_starts() as started:
        for step in range(2):
            pretraining_step(engine, batch_of(config, engine.grid, step), 1e-3)
    return len(engine._zero.param_groups), started


@pytest.mark.parametrize("ranks", [2, 4])
def test_all_buckets_start_during_the_last_backward_pass(ranks: int) -> None:
    """In pretraining every parameter has a gradient in every micro-batch."""
    config = config_of(tp_size=ranks // 2)
    for buckets, started in run_ranks(with_small_buckets, ranks, started_early, config):
        assert buckets > 3
        assert started == [buckets] * 2


def test_a_small_network_has_a_bucket_for_each_group() -> None:
    assert run_ranks(started_early, 2, config_of()) == [(2, [2, 2])] * 2


def one_rank_lacks_a_gradient(config: TrainConfig) -> tuple[list[int], list[list[set[float]]]]:
    """(buckets that started early, the values in each bucket's mean gradient) of two steps.

    In the first one the last micro-batch of rank 0 lacks the gradient of a parameter of the second
    bucket, in the second one all micro-batches of both ranks do.
    """
    engine = engine_of(config, grid_of(config))
    zero, rank = engine._zero, engine.grid.rank
    given: list[list[set[float]]] = []
    step = zero.optimizer.step

    def noted() -> None:
        partitions = zero.fp32_groups_gradient_flat_partition
        given.append([set(values.unique().tolist()) for values in partitions])
        step()

    zero.optimizer.step = noted
    lacking = zero.bf16_groups[1][0]
    parameters = [p for group in zero.bf16_groups for p in group]
    with noted_starts() as started:
        for has_none in (False, True):
            engine.start_step(1e-3)
            for is_last in (False, True):
                engine.start_micro_batch(is_last)
                lacks = has_none or (is_last and rank == 0)
                used = [p for p in parameters if not lacks or p is not lacking]
                engine.backward((1 + rank) * torch.stack([p.float().sum() for p in used]).sum())
            part = float(engine.norm_part())
            engine.finish_step([part] * engine.grid.world_size)
    return started, given


def test_ranks_may_lack_different_gradients() -> None:
    """Means of two micro-batches of ones on rank 0 and of twos on rank 1. Buckets after that of the
    missing gradient start at the end, in their order."""
    config = config_of(gradient_clipping=0)
    found = run_ranks(with_small_buckets, 2, one_rank_lacks_a_gradient, config)
    first, second = (
        [one | (last - {0.0}) for one, last in zip(*of_ranks, strict=True)]  # less its padding
        for of_ranks in zip(*(given for _, given in found), strict=True)
    )
    assert [started for started, _ in found] == [[1, 1], [len(first), 1]]
    assert first == [{3.0}, {(1 + 2 * 2) / 2, 3.0}] + [{3.0}] * (len(first) - 2)
    assert second == [{3.0}, {0.0, 3.0}] + [{3.0}] * (len(first) - 2)


def test_heads_that_a_rank_has_no_rows_of_change_no_bit(tmp_path: Path) -> None:
    """Two ranks have different tasks in their micro-batches, so that different buckets of theirs
    are complete when the last backward pass ends."""
    pretrained = make_pretrained(tmp_path / "pretrained")
    changes = {"precision": "bf16", "gradient_clipping": 0, "steps": 3}
    runs = [make_finetune_config(pretrained, tmp_path / name / "run", **changes) for name in "ab"]
    run_ranks(run_finetuning, 2, runs[0])
    run_ranks(with_small_buckets, 2, run_finetuning, runs[1], 8_000)
    assert_same_bits(final_state(runs[0]), final_state(runs[1]))
    assert metrics(runs[0], "loss") == metrics(runs[1], "loss")


def make_run(folder: Path, name: str, num_steps: int, **changes: Any) -> TrainConfig:
    return make_config(
        *(folder / "rows", folder / name),
        model={**SMALL_MODEL, "hidden_size": 256},
        precision="bf16",
        total_rows=num_steps * 16,
        schedule={"type": "constant"},
        **{"gradient_clipping": 0, **changes},
    )


@pytest.mark.parametrize(("ranks", "tp_size"), [(2, 1), (4, 2)])
def test_buckets_change_no_bit_of_weights_and_moments(
    ranks: int, tp_size: int, tmp_path: Path
) -> None:
    """A sum over two ranks is rounded once, in whatever order. A run may change its buckets at a
    checkpoint, as one of a version without buckets does. Clipped runs differ in the last digits of
    the norm, whose squares are added in another order."""
    make_rows(tmp_path / "rows")
    parallel = {"tensor": tp_size}
    whole = make_run(tmp_path, "whole", 6, parallel=parallel)
    in_buckets = make_run(tmp_path, "in_buckets", 6, parallel=parallel)
    changed = make_run(tmp_path, "changed", 6, parallel=parallel)
    run_ranks(pretrain, ranks, whole)
    run_ranks(with_small_buckets, ranks, pretrain, in_buckets)
    run_ranks(pretrain, ranks, make_run(tmp_path, "changed", 3, parallel=parallel))
    run_ranks(with_small_buckets, ranks, pretrain, changed)
    for other in (in_buckets, changed):
        assert_same_bits(final_state(whole), final_state(other))
        assert metrics(whole, "loss") == metrics(other, "loss")
        expected = pytest.approx(metrics(whole, "gradient_norm"), rel=1e-7)
        assert metrics(other, "gradient_norm") == expected


@pytest.mark.parametrize("optimizer", ["lamb", "stable_adamw", "muon"])
def test_optimizers_of_whole_parameters_do_not_depend_on_buckets(
    optimizer: str, tmp_path: Path
) -> None:
    make_rows(tmp_path / "rows")
    runs = [make_run(tmp_path, name, 3, optimizer={"type": optimizer}) for name in "ab"]
    run_ranks(pretrain, 2, runs[0])
    run_ranks(with_small_buckets, 2, pretrain, runs[1])
    first, second = map(final_state, runs)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-5, atol=1e-7)


def test_resumed_is_bit_equal_with_buckets(tmp_path: Path) -> None:
    """On three ranks, whose sums are rounded, with clipping."""
    make_rows(tmp_path / "rows")
    batch = {"global_rows": 12, "micro_rows": 2}
    changes = {"batch": batch, "gradient_clipping": 0.5}
    whole, resumed = (make_run(tmp_path, name, 9, **changes) for name in ("whole", "resumed"))
    run_ranks(with_small_buckets, 3, pretrain, whole)
    run_ranks(with_small_buckets, 3, pretrain, make_run(tmp_path, "resumed", 4, **changes))
    run_ranks(with_small_buckets, 3, pretrain, resumed)
    assert_same_bits(final_state(whole), final_state(resumed))
    for name in ("loss", "gradient_norm"):
        assert metrics(whole, name) == metrics(resumed, name)


def test_a_gradient_that_is_not_finite_changes_nothing_in_any_bucket() -> None:
    arguments = (after_a_step_that_is_not_finite, config_of())
    assert run_ranks(with_small_buckets, 2, *arguments) == [(True, True, True)] * 2
