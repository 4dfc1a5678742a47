"""The time of a step: which part grows with what."""

from dataclasses import replace
from pathlib import Path

import pytest

from configs.load import load
from pipeline.planning.accelerators import find_accelerator
from pipeline.planning.data_parallel import Rank
from pipeline.planning.pretraining import passes_of, phase_times, trained_of
from pipeline.planning.step_time import Rates, StepTime, step_time, update_time
from pipeline.run.assumed_rows import AssumedRows
from pipeline.run.config import TrainConfig
from pipeline.run.plan import RunPlan, plan_run

CONFIGS = Path(__file__).parents[3] / "configs"
H100 = Rates(find_accelerator("h100-80gb"))


def plan_of(name: str, ranks: int, *overrides: str) -> RunPlan:
    config = load(CONFIGS / f"{name}.yaml", TrainConfig, overrides)
    return plan_run(config, ranks, AssumedRows(50_265, 512))


def step_of(name: str, nodes: int, gpus: int, *overrides: str, rates: Rates = H100) -> StepTime:
    plan = plan_of(name, nodes * gpus, *overrides)
    return phase_times(plan, nodes, gpus, rates)[0].last_step


def test_parts_add_up_and_scale() -> None:
    step = step_of("base", 1, 8)
    assert step.total == pytest.approx(sum(step.parts().values()))
    assert (step + step).total == pytest.approx(step.times(2).total)


def test_products_take_their_operations_over_the_rate() -> None:
    plan = plan_of("base", 8)
    phase = plan.phases[0]
    flops = phase.training_flops(plan.config.model, 8192, 8192 * 77)
    half = step_of("base", 1, 8, rates=replace(H100, utilization=0.2))
    full = step_of("base", 1, 8, rates=replace(H100, utilization=0.4))
    assert half.matrix == pytest.approx(2 * full.matrix)
    assert full.matrix == pytest.approx(flops / 8 / (794.5e12 * 0.4), rel=0.01)
    assert half.traffic == full.traffic


def test_the_host_waits_only_where_kernels_are_short() -> None:
    """As counted: at 1,024 H200 base falls to about a ninth of the measured peak."""
    assert step_of("base", 1, 8).host == 0
    small = step_of("base", 1, 8, "batch.micro_rows=4")
    assert small.host > 0.5 * small.total
    settings = ("batch.micro_rows=4", "compute.cuda_graphs=on")
    graphs = step_of("base", 1, 8, *settings)
    unhidden = unhidden_data_s(plan_of("base", 8, *settings), Rank(1, 8, 1, 8))
    assert graphs == replace(small, host=0.0, data=unhidden)
    assert unhidden > small.data
    h200 = Rates(find_accelerator("h200-141gb"))
    many = step_of("base", 128, 8, "batch.micro_rows=8", rates=h200)
    plan = plan_of("base", 1024, "batch.micro_rows=8")
    flops = plan.phases[0].training_flops(plan.config.model, 8192, 8192 * 77)
    share = flops / 1024 / many.total / h200.accelerator.matrix_flops("bf16")
    assert share == pytest.approx(0.11, abs=0.015)


def unhidden_data_s(plan: RunPlan, rank: Rank) -> float:
    """Seconds of data-parallel communication in the last step, as if no pass hid any."""
    accumulation = plan.phases[-1].accumulation(plan.steps.total_steps - 1)
    return update_time(trained_of(plan), accumulation, rank, H100, StepTime(), StepTime()).data


def test_gradients_cost_more_between_nodes_and_at_every_micro_batch() -> None:
    inside = step_of("1.3b", 1, 8, "parallel.tensor=1")
    between = step_of("1.3b", 8, 1, "parallel.tensor=1")
    assert inside.tensor == between.tensor == 0
    assert between.data > 5 * inside.data  # one eighth of the network each
    once = unhidden_data_s(plan_of("1.3b", 16), Rank(1, 16, 2, 8))
    every = step_of("1.3b", 2, 8, "parallel.zero_stage=2")
    accumulation = plan_of("1.3b", 16).phases[0].accumulation(1024)
    # A reduce-scatter of 4 bytes a value or all-reduces of 8, and 2 for the new weights. A tenth
    # of the time at ZeRO 1 is the latency of 40 buckets.
    expected = once * (8 * accumulation + 2) / (4 + 2)
    assert 0.88 * expected < every.data < expected
    assert step_of("base", 1, 1).data == 0


def test_passes_hide_all_but_one_bucket_of_gradients_and_weights() -> None:
    """Which has the 103 million values of the word vectors; nothing with Muon, which divides whole
    matrices over the ranks, or on so many ranks that there is one bucket."""
    rank = Rank(1, 16, 2, 8)
    hidden = step_of("1.3b", 2, 8).data / unhidden_data_s(plan_of("1.3b", 16), rank)
    left = 50_265 * 2048 / trained_of(plan_of("1.3b", 16)).parameters
    assert hidden == pytest.approx(left, abs=0.03)
    plan = plan_of("1.3b", 16)
    none, short = StepTime(), StepTime(matrix=1e-3)
    for first, last, share in ((none, short, 2 / 3), (short, none, 1 / 3)):
        passes = update_time(trained_of(plan), 1, rank, H100, first, last).data
        # What runs after the last gather hides nothing.
        assert unhidden_data_s(plan, rank) - passes == pytest.approx(share * 1e-3, rel=0.1)
    muon = plan_of("1.3b", 16, "optimizer={type: muon}")
    found = step_of("1.3b", 2, 8, "optimizer={type: muon}").data
    assert found == unhidden_data_s(muon, rank)
    many = plan_of("base", 1024, "batch.micro_rows=8")
    found = step_of("base", 128, 8, "batch.micro_rows=8").data
    assert found == unhidden_data_s(many, Rank(1, 1024, 128, 8))


def test_tensor_parallelism_halves_products_and_adds_messages() -> None:
    one = step_of("1.3b", 1, 8, "parallel.tensor=1", "batch.micro_rows=8")
    two = step_of("1.3b", 1, 8, "parallel.tensor=2", "batch.micro_rows=16")
    assert one.matrix == pytest.approx(two.matrix, rel=0.02)  # of twice the rows
    assert two.tensor > 0
    assert two.traffic > one.traffic  # norms and residuals are computed by both


def test_layers_computed_again_cost_a_forward_pass() -> None:
    recomputed = "compute.activation_checkpointing={type: layers}"
    again, once = step_of("1.3b", 1, 8, recomputed), step_of("1.3b", 1, 8)
    assert again.matrix / once.matrix == pytest.approx(4 / 3, rel=0.04)  # but not of the head


def test_the_optimizer_is_sharded_and_slow_in_host_memory() -> None:
    one, eight = step_of("base", 1, 1), step_of("base", 1, 8)
    assert one.optimizer == pytest.approx(8 * eight.optimizer)
    offloaded = step_of("base", 1, 8, "parallel.offload_optimizer=true")
    assert offloaded.optimizer > 20 * eight.optimizer
    muon = step_of("base", 1, 8, "optimizer={type: muon}")
    assert muon.optimizer > eight.optimizer


def test_replaced_tokens_and_adversaries_are_counted() -> None:
    plain = step_of("base", 1, 8)
    electra = "objective={type: replaced_tokens, generator: {type: small}}"
    assert step_of("base", 1, 8, electra).matrix > plain.matrix
    alum = step_of("base", 1, 8, "adversarial={type: alum}")
    assert alum.matrix > 2 * plain.matrix


def test_a_batch_warm_up_has_shorter_steps() -> None:
    warmup = "batch.warmup=[{until_row: 1000000, global_rows: 2048}]"
    plan = plan_of("base", 8, warmup)
    (found,) = phase_times(plan, 1, 8, H100)
    rank = Rank(1, 8, 1, 8)
    passes, trained = passes_of(plan.phases[0], plan.config.model), trained_of(plan)
    small = step_time(passes, trained, 32, 8, rank, H100)
    expected = small.times(489) + found.last_step.times(found.num_steps - 489)
    assert found.whole.total == pytest.approx(expected.total)
