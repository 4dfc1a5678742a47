"""The search over layouts: what it takes, and why not the others."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from configs.load import ConfigError, load
from pipeline.planning.accelerators import find_accelerator
from pipeline.planning.layouts import PretrainingLayouts, overrides_of
from pipeline.planning.pretraining import phase_times
from pipeline.planning.scaling import largest_useful, scale
from pipeline.planning.search import (
    CLOSE,
    ENOUGH_TOKENS,
    Outcome,
    Stage,
    Variant,
    fastest,
    micro_batches_of,
    search,
)
from pipeline.planning.step_time import Rates, StepTime
from pipeline.run.assumed_rows import AssumedRows
from pipeline.run.config import TrainConfig
from pipeline.run.memory import MemoryEstimate, estimate_memory
from pipeline.run.plan import plan_run

CONFIGS = Path(__file__).parents[3] / "configs"
ROWS = AssumedRows(50_265, 512)


def layouts(
    name: str, nodes: int, gpus: int, accelerator: str, *overrides: str
) -> PretrainingLayouts:
    config = load(CONFIGS / f"{name}.yaml", TrainConfig, overrides)
    plan = plan_run(config, config.parallel.tensor, ROWS)
    return PretrainingLayouts(plan, nodes, gpus, Rates(find_accelerator(accelerator)))


def test_the_one_that_is_taken_fits_and_is_the_fastest() -> None:
    outcomes = search(layouts("3.9b", 2, 8, "a100-40gb"), 40)
    best = fastest(outcomes)
    assert best is not None
    assert best.memory_gb <= 40
    fitting = [outcome for outcome in outcomes if outcome.fits]
    assert best.time.total <= CLOSE * min(outcome.time.total for outcome in fitting)
    assert [o.time.total for o in fitting] == sorted(o.time.total for o in fitting)
    # Tensor parallel 1, 2, 4, 8; ZeRO 1, 2, 3; recomputation; copies of weights in nodes; at ZeRO 3
    # gradients reduced once a step or in each micro-batch.
    assert len(outcomes) == 4 * 4 * 3 + 3 * 3 * 2


def test_its_settings_give_that_time_and_that_memory() -> None:
    """The recommendation, given as overrides, is planned as it was computed."""
    given = ("parallel.tensor=2", "compute.activation_checkpointing={type: layers}")
    run = layouts("1.3b", 1, 8, "a100-40gb", *given)
    best = fastest(search(run, 40))
    assert best is not None
    words = [f"{key}={json.dumps(value)}" for key, value in overrides_of(best, run.plan).items()]
    assert len(words) == 3  # tensor parallel 1, micro-batches, no recomputation; ZeRO 1 stays
    config = load(CONFIGS / "1.3b.yaml", TrainConfig, [*given, *words])
    plan = plan_run(config, 8, ROWS)
    assert estimate_memory(plan).total_gb == pytest.approx(best.memory_gb)
    (found,) = phase_times(plan, 1, 8, run.rates)
    assert found.whole.total == pytest.approx(best.time.total)


@pytest.mark.parametrize("faster", [1 / CLOSE**0.5, 1 / CLOSE**2])
def test_gradients_are_kept_for_a_step_only_where_that_is_faster(faster: float) -> None:
    """It takes 4 bytes a parameter; what is less than 1 % faster is as fast."""
    memory = MemoryEstimate(0.0, 0.0, 0.0, 0.0)
    once, often = (
        Outcome(Variant(1, 3, reduces_once=once), (Stage(1, memory, StepTime(matrix=seconds)),))
        for once, seconds in ((True, faster), (False, 1.0))
    )
    assert fastest([once, often]) == (often if faster * CLOSE > 1 else once)


@pytest.mark.parametrize("name", ["1.3b", "3.9b"])
def test_less_memory_is_never_faster(name: str) -> None:
    run = layouts(name, 1, 8, "a100-80gb")
    times = []
    for memory_gb in (16, 24, 40, 80):
        best = fastest(search(run, memory_gb))
        times.append(float("inf") if best is None else best.time.total)
    assert times == sorted(times, reverse=True)
    assert times[-1] < times[0]


def test_every_other_layout_says_why_not() -> None:
    outcomes = search(layouts("base", 1, 8, "h100-80gb"), 3.2)
    reasons = {outcome.variant: outcome.refusal for outcome in outcomes}
    assert reasons[Variant(8, 1)].startswith(
        "does not divide: model.num_attention_heads 12 is not divisible"
    )
    assert reasons[Variant(1, 1)].startswith("memory: ")
    assert reasons[Variant(1, 1)].endswith(" GB with micro-batches of 1, of 3.2 GB")
    wide = search(layouts("base", 3, 1, "h100-80gb"), 80)
    assert {outcome.refusal for outcome in wide} == {
        "does not divide: 3 data-parallel ranks do not divide steps of 8,192 rows"
    }
    assert fastest(wide) is None


def test_micro_batches_divide_every_step() -> None:
    assert micro_batches_of([96, 144], 4) == [1, 2, 3, 4, 6, 12]
    with pytest.raises(ConfigError, match="7 data-parallel ranks do not divide steps of 96, 144"):
        micro_batches_of([144, 96, 96], 7)


def test_large_micro_batches_where_they_cost_nothing() -> None:
    """The planner says to use 128 rows of base on 80 GB."""
    best = fastest(search(layouts("base", 1, 8, "h100-80gb"), 80))
    assert best is not None
    assert best.variant == Variant(1, 1)
    (stage,) = best.stages
    assert stage.micro_rows * 512 == ENOUGH_TOKENS


def test_micro_batches_of_every_phase() -> None:
    run = layouts("modern-base", 1, 8, "h100-80gb", "batch.micro_rows=24")
    best = fastest(search(run, 80))
    assert best is not None
    keys = {"batch.micro_rows", "then.0.batch.micro_rows", "then.1.batch.micro_rows"}
    assert overrides_of(best, run.plan).keys() == keys
    for stage, phase in zip(best.stages, run.plan.phases, strict=True):
        assert phase.config.batch.global_rows % (stage.micro_rows * 8) == 0


def test_the_useful_number_of_accelerators() -> None:
    run = layouts("base", 1, 1, "h100-80gb")

    def on(nodes: int, gpus: int) -> PretrainingLayouts:
        return replace(run, num_nodes=nodes, gpus_per_node=gpus)

    points = scale(on, 8, 80)
    assert [point.world_size for point in points[:6]] == [1, 2, 4, 8, 16, 32]
    hours = [point.accelerator_hours for point in points]
    assert hours[3] == pytest.approx(hours[0], rel=0.01)
    useful = largest_useful(points)
    assert useful is not None
    assert useful.accelerator_hours <= 2 * min(hours)
    assert points[-1].world_size > useful.world_size  # the next ones were computed, and lose more
    assert largest_useful([]) is None
    assert scale(on, 8, 2.6) == []


def test_a_smaller_batch_is_useful_on_fewer() -> None:
    def useful(global_rows: int) -> int:
        run = layouts("base", 1, 1, "h100-80gb", f"batch.global_rows={global_rows}")
        points = scale(lambda n, g: replace(run, num_nodes=n, gpus_per_node=g), 8, 80)
        found = largest_useful(points)
        assert found is not None
        return found.world_size

    assert useful(256) < useful(2048) < useful(8192)


def test_no_layout_is_recommended_that_the_config_refuses() -> None:
    run = layouts("3.9b", 2, 8, "v100-32gb", "compute.compile=on", "precision=fp16")
    for outcome in search(run, 32):
        if outcome.variant.zero_stage == 3:
            assert not outcome.fits
    run = layouts("3.9b", 2, 8, "h100-80gb", "compute.cuda_graphs=on")
    fitting = [outcome.variant for outcome in search(run, 32) if outcome.fits]
    assert fitting
    assert {(variant.tp_size, variant.zero_stage) for variant in fitting} == {(1, 1)}
