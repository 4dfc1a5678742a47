"""What `python -m pipeline.plan` prints: batch, memory, steps and hours of a run on given nodes."""

from collections.abc import Iterator

from configs.load import ConfigError
from data_prep.dataset.manifest import MANIFEST_NAME
from pipeline.run import run_folder
from pipeline.run.assumed_rows import AssumedRows
from pipeline.run.config import TrainConfig
from pipeline.run.memory import (
    MemoryEstimate,
    checkpoint_bytes,
    count_trained,
    estimate_memory,
)
from pipeline.run.plan import RunPlan, plan_run
from pipeline.start.record import own_checkpoint

HOURS_OF_A_FAILURE = 50_700
"""Accelerator hours for each unexpected interruption of a job: 419 in 54 days on 16,384 H100
(Dubey et al. 2024, "The Llama 3 Herd of Models", section 3.3.4)."""


def report(
    config: TrainConfig,
    num_nodes: int,
    gpus_per_node: int,
    gpu_memory_gb: float | None = None,
    tokens_per_s: float | None = None,
    assumed: AssumedRows | None = None,
) -> Iterator[str]:
    """The plan, a line each; needs no accelerator and writes nothing.

    With `assumed`, of a run whose rows are not made yet.

    Raises ConfigError, before the first line, for what cannot work on `num_nodes` x `gpus_per_node`
    ranks: rows that are not there, sizes that do not divide, tensor parallelism across nodes, more
    memory than `gpu_memory_gb`, an output folder that holds a different run; and for a start other
    than random weights on `assumed` rows.
    """
    if num_nodes < 1 or gpus_per_node < 1:
        raise ConfigError(
            f"--nodes {num_nodes} --gpus-per-node {gpus_per_node}: both must be at least 1"
        )
    if assumed:
        _check_start_needs_no_rows(config)
    else:
        _check_rows_exist(config)
    plan = plan_run(config, num_nodes * gpus_per_node, assumed)
    if gpus_per_node % plan.tp_size:
        raise ConfigError(
            f"parallel.tensor {plan.tp_size} does not divide the {gpus_per_node} ranks of a node: "
            "its all-reduces, four a layer, would go over the network"
        )
    changes = [] if assumed else run_folder.check_claim(config, plan.data_fingerprint)
    memory = estimate_memory(plan)
    if gpu_memory_gb is not None and memory.total_gb > gpu_memory_gb:
        raise ConfigError(
            f"does not fit: {memory.summary()}, but one has {gpu_memory_gb:g} GB; "
            f"{advice(plan, memory)}"
        )
    if assumed:
        yield (
            f"assumed: a vocabulary of {plan.vocab_size:,} ids; not checked: sources, tokenizer "
            "and held-out rows"
        )
    yield from _lines(plan, memory, tokens_per_s)
    for change in changes:
        yield f"changed since the last start: {change}"


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


def _lines(plan: RunPlan, memory: MemoryEstimate, tokens_per_s: float | None) -> Iterator[str]:
    config = plan.config
    newest = own_checkpoint(config.output)
    yield from plan.summary_lines(newest.manifest.step if newest else 0)
    parameters = count_trained(config, plan.vocab_size)
    yield f"parameters {parameters:,}; memory about {memory.summary()}"
    if config.compute.attention_backend == "flex":
        yield "compute.attention_backend flex trains on CUDA devices only"
    tokens = sum(phase.steps.total_rows * phase.manifest.row_tokens for phase in plan.phases)
    yield f"tokens {tokens:,} in {plan.steps.total_steps:,} steps"
    if tokens_per_s:
        accelerator_hours = tokens / tokens_per_s / 3600
        hours = accelerator_hours / (plan.tp_size * plan.dp_size)
        yield (
            f"time about {hours:,.1f} h at {tokens_per_s:,.0f} tokens/s an accelerator, "
            f"{accelerator_hours:,.0f} accelerator hours"
        )
        failures = accelerator_hours / HOURS_OF_A_FAILURE
        yield (
            f"failures of hardware in that time: about {failures:,.1f} "
            f"(one in {HOURS_OF_A_FAILURE:,} accelerator hours, Dubey et al. 2024)"
        )
    yield f"checkpoints of {checkpoint_bytes(config, plan.vocab_size) / 1e9:,.2f} GB"


def advice(plan: RunPlan, memory: MemoryEstimate) -> str:
    """The setting that reduces the largest part of `memory` most."""
    config = plan.config
    if memory.activations > memory.weights + memory.gradients + memory.optimizer:
        rows = plan.phases[memory.phase].config.batch.micro_rows
        where = f"then.{memory.phase - 1}." if memory.phase else ""
        if rows > 1:
            return f"lower {where}batch.micro_rows (now {rows}); the batch stays the same"
        return "set compute.activation_checkpointing.type to layers; it changes no result"
    if config.parallel.zero_stage < 3 and plan.dp_size > 1:
        return f"raise parallel.zero_stage (now {config.parallel.zero_stage})"
    more = f"raise parallel.tensor (now {plan.tp_size}) or take more nodes"
    if not config.parallel.offload_optimizer:
        more += ", or set parallel.offload_optimizer (slower: masters and moments in host memory)"
    return more
