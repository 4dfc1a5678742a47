"""The plan of a pretraining run on a launch: batch, memory, time, cost, and other layouts."""

from dataclasses import replace

from configs.load import ConfigError
from data_prep.dataset.manifest import MANIFEST_NAME
from pipeline.planning.costs import Cost, cost_of
from pipeline.planning.layouts import PretrainingLayouts, overrides_of
from pipeline.planning.pretraining import phase_times
from pipeline.planning.request import PlanRequest
from pipeline.planning.scaling import scale
from pipeline.planning.search import fastest, search
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
from pipeline.run.plan import PhasePlan, RunPlan, plan_run
from pipeline.start.record import own_checkpoint


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
    plan = plan_run(config, request.world_size, assumed)
    if request.gpus_per_node % plan.tp_size:
        raise ConfigError(
            f"parallel.tensor {plan.tp_size} does not divide the {request.gpus_per_node} ranks of "
            "a node: its all-reduces, four a layer, would go over the network"
        )
    changes = [] if assumed else run_folder.check_claim(config, plan.data_fingerprint)
    memory = estimate_memory(plan, request.on_cpu)
    comparison = None if request.rates is None else _compare(plan, request, request.rates)
    if request.memory_gb is not None and memory.total_gb > request.memory_gb:
        raise ConfigError(
            f"does not fit: {memory.summary()}, but one has {request.memory_gb:g} GB; "
            f"{advice(plan, memory)}{what_fits(comparison)}"
        )
    stages = _stage_times(plan, request)
    saved = checkpoint_bytes(config, plan.vocab_size)
    parameters = count_trained(config, plan.vocab_size)
    tokens = sum(phase.steps.total_rows * phase.manifest.row_tokens for phase in plan.phases)
    return PlanSummary(
        request=request,
        name=config.name,
        heading=tuple(_heading(plan, assumed)),
        num_steps=plan.steps.total_steps,
        tokens=tokens,
        parameters=parameters,
        trained_parameters=parameters,
        memory=memory,
        checkpoint_bytes=saved,
        stages=stages,
        cost=run_cost(request, tokens, stages, saved),
        comparison=comparison,
        memory_notes=_memory_notes(config),
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


def advice(plan: RunPlan, memory: MemoryEstimate) -> str:
    """The setting that reduces the largest part of `memory` most."""
    config = plan.config
    if memory.activations > memory.weights + memory.gradients + memory.optimizer:
        rows = plan.phases[memory.phase].config.batch.micro_rows
        where = f"then.{memory.phase - 1}." if memory.phase else ""
        if rows > 1:
            return f"lower {where}batch.micro_rows (now {rows}); the batch stays the same"
        return "set compute.activation_checkpointing.type to layers; it changes no result"

    def under(changed: TrainConfig) -> MemoryEstimate:
        return estimate_memory(replace(plan, config=changed), memory.on_cpu)

    higher_stage = zero_stage_advice(config, memory, plan.dp_size, under)
    if higher_stage is not None:
        return higher_stage
    more = f"raise parallel.tensor (now {plan.tp_size}) or take more nodes"
    if not config.parallel.offload_optimizer and not memory.on_cpu:
        more += ", or set parallel.offload_optimizer (slower: masters and moments in host memory)"
    return more


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


def _memory_notes(config: TrainConfig) -> tuple[str, ...]:
    if config.compute.attention_backend == "flex":
        return ("compute.attention_backend flex trains on CUDA devices only",)
    return ()


def what_fits(comparison: Comparison | None) -> str:
    """The end of the message on a run that does not fit."""
    if comparison is None:
        return ""
    if comparison.best is None:
        return "; no layout fits on this launch"
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
