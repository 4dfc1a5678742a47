"""The plan of a pretraining run on a launch: batch, memory, time, cost, and other layouts."""

from collections.abc import Iterator
from dataclasses import replace

from configs.load import ConfigError
from data_prep.dataset.manifest import MANIFEST_NAME
from pipeline.planning.costs import Cost, cost_of
from pipeline.planning.layouts import PretrainingLayouts, overrides_of
from pipeline.planning.pretraining import phase_times
from pipeline.planning.request import PlanRequest
from pipeline.planning.scaling import scale
from pipeline.planning.search import fastest, search
from pipeline.planning.shard_reads import note_on_shards
from pipeline.planning.step_time import Rates
from pipeline.planning.summary import Comparison, PlanSummary, StageTime
from pipeline.run import run_folder
from pipeline.run.assumed_rows import AssumedRows
from pipeline.run.config import TrainConfig
from pipeline.run.memory import (
    MemoryEstimate,
    checkpoint_bytes,
    count_trained,
    estimate_memory,
    zero_stage_advice,
)
from pipeline.run.phase_checks import BatchError, check_batch
from pipeline.run.plan import PhasePlan, RunPlan, plan_run
from pipeline.start.record import own_checkpoint

NODE_RANKS = 8
"""Ranks of a node that are advised at most."""
MOST_RANKS_ADVISED = 1024


def summarize(
    config: TrainConfig, request: PlanRequest, assumed: AssumedRows | None = None
) -> PlanSummary:
    """The plan in numbers; needs no accelerator and writes nothing.

    With `assumed`, of a run whose rows are not made yet.

    Raises ConfigError for what cannot work on the launch: rows that are not there, sizes that do
    not divide, tensor parallelism across nodes, more memory than there is, an output folder that
    holds a different run; and for a start other than random weights on `assumed` rows.
    """
    if assumed:
        _check_start_needs_no_rows(config)
    else:
        _check_rows_exist(config)
    request.check_tensor(config.parallel.tensor)
    try:
        plan = plan_run(config, request.world_size, assumed)
    except BatchError as error:
        raise ConfigError(f"{error}; or plan for other ranks than {request.own_launch}") from None
    changes = [] if assumed else run_folder.check_claim(config, plan.data_fingerprint)
    memory = estimate_memory(plan, request.on_cpu)
    comparison = None if request.rates is None else _compare(plan, request, request.rates)
    if request.memory_gb is not None and memory.total_gb > request.memory_gb:
        raise ConfigError(
            f"does not fit: {memory.summary()}, but one has {request.memory_gb:g} GB; "
            f"{advice(plan, memory, request)}{what_fits(comparison, request)}"
        )
    stages = _stage_times(plan, request)
    saved = checkpoint_bytes(config, plan.vocab_size)
    parameters = count_trained(config, plan.vocab_size)
    tokens = sum(phase.steps.total_rows * phase.manifest.row_tokens for phase in plan.phases)
    return PlanSummary(
        request=request,
        name=config.name,
        heading=(*request.assumptions(), *_heading(plan, assumed)),
        num_steps=plan.steps.total_steps,
        tokens=tokens,
        parameters=parameters,
        trained_parameters=parameters,
        memory=memory,
        checkpoint_bytes=saved,
        stages=stages,
        cost=run_cost(request, tokens, stages, saved),
        comparison=comparison,
        notes=tuple(_notes(plan)),
        changes=tuple(f"changed since the last start: {change}" for change in changes),
    )


def run_cost(
    request: PlanRequest, tokens: float, stages: tuple[StageTime, ...], saved_bytes: float
) -> Cost | None:
    """Of `tokens` at the measured throughput if there is one, else at the computed times; None
    without either."""
    if request.tokens_per_s is not None:
        hours = tokens / request.tokens_per_s / request.world_size / 3600
    elif stages:
        hours = sum(stage.whole.total for stage in stages) / 3600
    else:
        return None
    return cost_of(
        hours,
        request.world_size,
        saved_bytes,
        request.storage_gb_s * 1e9,
        request.accelerator,
        request.price_per_gpu_hour,
    )


def advice(plan: RunPlan, memory: MemoryEstimate, request: PlanRequest) -> str:
    """The setting, or the option of the launch, that reduces the largest part of `memory` most."""
    config = plan.config
    if memory.activations > memory.weights + memory.gradients + memory.optimizer:
        rows = plan.phases[memory.phase].config.batch.micro_rows
        where = f"then.{memory.phase - 1}." if memory.phase else ""
        if rows > 1:
            return f"lower {where}batch.micro_rows (now {rows}); the batch stays the same"
        return "set compute.activation_checkpointing.type to selective or, to save most, layers"

    def under(changed: TrainConfig) -> MemoryEstimate:
        return estimate_memory(replace(plan, config=changed), memory.on_cpu)

    higher_stage = zero_stage_advice(config, memory, plan.dp_size, under)
    if higher_stage is not None:
        return higher_stage
    more = ""
    if (launch := _launch_that_fits(plan, request)) is not None:
        more = f"plan for more ranks, {launch}, or "
    more += (
        f"raise parallel.tensor (now {plan.tp_size}), which has to divide {request.ranks_option} "
        f"(now {request.gpus_per_node})"
    )
    if not config.parallel.offload_optimizer and not memory.on_cpu:
        more += ", or set parallel.offload_optimizer (slower: masters and moments in host memory)"
    return more


def _launch_that_fits(plan: RunPlan, request: PlanRequest) -> str | None:
    """The options for the fewest ranks, doubled from those of `request`, that the run fits on as it
    is, with the memory of one; None: none of them."""
    nodes, ranks = request.num_nodes, request.gpus_per_node
    while nodes * ranks < MOST_RANKS_ADVISED:
        if 2 * ranks <= NODE_RANKS:
            ranks *= 2
        else:
            nodes *= 2
        dp_size = nodes * ranks // plan.tp_size
        try:
            for phase in plan.phases:
                check_batch(phase.config.batch, dp_size)
        except BatchError:
            return None
        phases = tuple(replace(phase, dp_size=dp_size) for phase in plan.phases)
        memory = estimate_memory(replace(plan, phases=phases, dp_size=dp_size), request.on_cpu)
        if request.memory_gb is not None and memory.total_gb <= request.memory_gb:
            return f"{request.launch(nodes, ranks)} ({memory.total_gb:.1f} GB each)"
    return None


def _heading(plan: RunPlan, assumed: AssumedRows | None) -> list[str]:
    newest = own_checkpoint(plan.config.output)
    lines = plan.summary_lines(newest.manifest.step if newest else 0)
    if not assumed:
        return lines
    assumption = (
        f"assumed: a vocabulary of {plan.vocab_size:,} ids; not checked: sources, tokenizer and "
        "held-out rows"
    )
    return [assumption, *lines]


def _notes(plan: RunPlan) -> Iterator[str]:
    if plan.config.compute.attention_backend == "flex":
        yield "compute.attention_backend flex trains on CUDA devices only"
    if plan.config.compute.attention_backend == "varlen":
        yield "compute.attention_backend varlen needs CUDA and 16 bits; CPUs compute it slowly"
    for number, phase in enumerate(plan.phases):
        note = note_on_shards(phase)
        if note is not None:
            yield note if len(plan.phases) == 1 else f"phase {number + 1}: {note}"


def what_fits(comparison: Comparison | None, request: PlanRequest) -> str:
    """The end of the message on a run that does not fit."""
    if comparison is None:
        return ""
    if comparison.best is None:
        larger = [p for p in comparison.scaling if p.world_size > request.world_size]
        launches = [request.launch(p.num_nodes, p.gpus_per_node) for p in larger]
        where = f"; one fits on {launches[0]}" if launches else ""
        return f"; no layout fits on {request.own_launch}{where}"
    return f"; the fastest layout that fits: {comparison.settings}"


def _compare(plan: RunPlan, request: PlanRequest, rates: Rates) -> Comparison:
    assert request.memory_gb is not None
    memory_gb = request.memory_gb

    def run_on(num_nodes: int, gpus_per_node: int) -> PretrainingLayouts:
        return PretrainingLayouts(plan, num_nodes, gpus_per_node, rates)

    outcomes = search(run_on(request.num_nodes, request.gpus_per_node), memory_gb)
    best = fastest(outcomes)
    node_size = max(request.gpus_per_node, rates.accelerator.node_accelerators)
    if request.num_nodes > 1:
        node_size = request.gpus_per_node
    return Comparison(
        outcomes=tuple(outcomes),
        overrides={} if best is None else overrides_of(best, plan),
        scaling=tuple(scale(run_on, node_size, memory_gb)),
    )


def _stage_times(plan: RunPlan, request: PlanRequest) -> tuple[StageTime, ...]:
    if request.rates is None:
        return ()
    times = phase_times(plan, request.num_nodes, request.gpus_per_node, request.rates)
    return tuple(
        StageTime(
            name=f"phase {number}",
            num_steps=found.num_steps,
            tokens=phase.steps.total_rows * phase.manifest.row_tokens,
            step=found.last_step,
            whole=found.whole,
            model_flops=_model_flops(phase),
        )
        for number, (phase, found) in enumerate(zip(plan.phases, times, strict=True), start=1)
    )


def _model_flops(phase: PhasePlan) -> float:
    rows = phase.steps.total_rows
    objective, row_tokens = phase.config.objective, phase.manifest.row_tokens
    masked = rows * objective.num_slots(row_tokens)
    return phase.training_flops(phase.config.model, rows, masked, objective.IS_CAUSAL)


def _check_start_needs_no_rows(config: TrainConfig) -> None:
    if config.start.type != "scratch":
        raise ConfigError(
            f"--vocab-size is for runs from random weights, but start.type is {config.start.type}, "
            "whose vocabulary is compared with that of the rows: prepare them first"
        )


def _check_rows_exist(config: TrainConfig) -> None:
    for data in (phase.data for phase in config.phases):
        if data.url is None and not (data.path / MANIFEST_NAME).exists():
            raise ConfigError(
                f"{data.path / MANIFEST_NAME}: no such file: run data preparation, or plan with "
                "--vocab-size N as if there were rows"
            )
