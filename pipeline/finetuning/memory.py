"""What a fine-tuning run needs of each accelerator's memory, by arithmetic (`pipeline.run.memory`).

Micro-batches are padded to their longest row, so the longest row of the files decides. Frozen parts
have weights, but no gradients and no optimizer state, and no activations are kept below the lowest
trained part.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from model.compute import ComputeConfig
from model.config import MLM_HEAD, ModelConfig
from model.size import (
    count_head_parameters,
    count_layer_parameters,
    count_matrix_parameters,
    count_parameters,
    count_vectors,
)
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.padding import width_of
from pipeline.finetuning.plan import FinetunePlan
from pipeline.planning.request import PlanRequest
from pipeline.run.activations import activation_bytes, head_bytes
from pipeline.run.memory import (
    MemoryEstimate,
    for_cpu,
    saves_before_end,
    state_memory,
    zero_stage_advice,
)


@dataclass(frozen=True)
class _Network:
    """What the memory of activations depends on."""

    model: ModelConfig
    compute: ComputeConfig
    value_bytes: int


@dataclass(frozen=True)
class Parameters:
    """The parameters of a run, without padding."""

    total: int
    trained: int
    trained_in_matrices: int
    """Of the trained ones, those in the matrices of layers."""


def count_finetuned(plan: FinetunePlan) -> Parameters:
    """Parameters of the encoder, its heads and those of the tasks."""
    model, vocab_size = plan.model, plan.start.vocab_size
    hidden = model.hidden_size
    layers_of_heads = 0  # the pooler, or what stands before the output of each head
    if model.head_transform.type != "none":
        layers_of_heads = len(plan.config.tasks) * (hidden * hidden + 2 * hidden)
    elif model.pooler.type != "none":
        layers_of_heads = hidden * hidden + hidden
    outputs = [getattr(task.head(), "num_labels", 2) for task in plan.config.tasks.values()]
    heads = layers_of_heads + sum(outputs) * (hidden + 1)
    total = count_parameters(model, vocab_size) + heads
    frozen_layers, freezes_embeddings = _frozen(model)
    frozen = frozen_layers * count_layer_parameters(model)
    if freezes_embeddings:
        frozen += count_vectors(model, vocab_size) * model.embedding_width
    if plan.mlm is None:
        frozen += count_head_parameters(model, vocab_size)
    in_matrices = count_matrix_parameters(model)
    in_matrices = in_matrices * (model.num_layers - frozen_layers) // model.num_layers
    return Parameters(total, total - frozen, in_matrices)


def estimate_finetuning(plan: FinetunePlan, on_cpu: bool = False) -> MemoryEstimate:
    """The memory of the micro-batch that needs most, of a rank on a CPU or of its accelerator."""
    config, tp_size, dp_size = plan.config, plan.tp_size, plan.dp_size
    found = count_finetuned(plan)
    trained, in_matrices = found.trained / tp_size, found.trained_in_matrices / tp_size
    state = state_memory(config, found.total / tp_size, trained, in_matrices, dp_size, on_cpu)
    activations = max(size for _, _, _, size in widest_batches(plan, on_cpu))
    state = replace(state, activations=activations)
    if not on_cpu:
        return state
    # Host memory has an fp32 copy of frozen weights, which saves take as it is.
    frozen = 4 * (found.total - found.trained) / tp_size
    state = replace(state, weights=state.weights + frozen)
    copied = config.optimizer.state_bytes(trained, in_matrices) / dp_size
    return for_cpu(state, config, copied, saves_before_end(config, config.num_steps))


def finetuned_checkpoint_bytes(plan: FinetunePlan) -> float:
    """Size of a checkpoint: fp32 weights, and the optimizer's state of those that are trained."""
    found = count_finetuned(plan)
    state = plan.config.optimizer.state_bytes(found.trained, found.trained_in_matrices)
    return state + 4 * (found.total - found.trained)


def widest_batches(
    plan: FinetunePlan, on_cpu: bool = False
) -> Iterator[tuple[str, int, int, float]]:
    """By head, (name, rows, tokens of each, bytes kept) of its largest micro-batch on a rank."""
    config, model = plan.config, plan.model
    network = _Network(
        model.model_copy(update={"num_layers": trained_layers(model)}),
        config.compute,
        config.value_bytes,
    )
    passes = 2 if config.adversarial.type == "smart" else 1
    vocab_size = config.compute.padded_vocab_size(plan.start.vocab_size)
    for name, file in plan.train.items():
        task = config.tasks[name]
        examples = min(config.micro_rows // task.rows_per_example, task.examples_per_step)
        rows = examples * task.rows_per_example
        width = width_of(int(file.longest_rows.tokens[-1]), model.max_row_tokens)
        size = activation_bytes(network, rows, width, plan.tp_size, on_cpu)
        if plan.mlm is not None:  # its head sees a slot of each row
            size += rows * vocab_size / plan.tp_size * (2 * config.value_bytes + 8)
        yield name, rows, width, passes * size
    if plan.mlm is not None and config.mlm is not None:
        rows = min(config.mlm.rows_per_step, config.micro_rows)
        shape = (rows, plan.mlm.manifest.row_tokens)
        size = activation_bytes(network, *shape, plan.tp_size, on_cpu)
        objective = config.mlm.objective
        overwrites = not on_cpu and passes == 1
        size += head_bytes(network, objective, *shape, vocab_size, plan.tp_size, overwrites)
        yield MLM_HEAD, *shape, passes * size


def trained_layers(model: ModelConfig) -> int:
    """Layers with a backward pass: those above the lowest trained part."""
    frozen_layers, freezes_embeddings = _frozen(model)
    return model.num_layers - (frozen_layers if freezes_embeddings else 0)


def largest_batch_line(plan: FinetunePlan) -> str:
    """The micro-batch that needs most memory, in words."""
    name, *shape, _ = max(widest_batches(plan), key=lambda one: one[3])
    return (
        f"largest micro-batch: {shape[0]} rows of {shape[1]} tokens ({name}), "
        f"{prod(shape):,} tokens"
    )


def advice(plan: FinetunePlan, memory: MemoryEstimate, request: PlanRequest) -> str:
    """The setting that reduces the largest part of `memory` most."""
    config = plan.config
    if memory.activations > memory.weights + memory.gradients + memory.optimizer:
        if config.micro_rows > max(task.rows_per_example for task in config.tasks.values()):
            return f"lower micro_rows (now {config.micro_rows}); the steps stay the same"
        return (
            "lower max_row_tokens, or set compute.activation_checkpointing.type to selective or, "
            "to save most, layers"
        )

    def under(changed: FinetuneConfig) -> MemoryEstimate:
        return estimate_finetuning(replace(plan, config=changed), memory.on_cpu)

    higher_stage = zero_stage_advice(config, memory, plan.dp_size, under)
    if higher_stage is not None:
        return higher_stage
    more = (
        f"plan for more ranks ({request.own_launch} now), raise parallel.tensor (now "
        f"{plan.tp_size}), freeze layers (model.frozen)"
    )
    if not config.parallel.offload_optimizer and not memory.on_cpu:
        more += ", or parallel.offload_optimizer"
    return more


def _frozen(model: ModelConfig) -> tuple[int, bool]:
    """(frozen layers, whether the embeddings are frozen), as `model.freezing` does."""
    frozen = model.frozen
    if frozen.type == "nothing":
        return 0, False
    if frozen.type == "lower":
        return frozen.num_layers, frozen.embeddings
    return model.num_layers - frozen.num_layers, True
