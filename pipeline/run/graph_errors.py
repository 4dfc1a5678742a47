"""What cannot be launched as CUDA graphs, as lines that name the keys. Imports no torch."""

from collections.abc import Iterator, Sequence

from model.compute import ComputeConfig
from model.config import ModelConfig
from pipeline.run.phases import PhaseConfig

NAME = "compute.cuda_graphs on"
ADVICE = "set cuda_graphs to auto"


def graph_errors(
    phases: Sequence[PhaseConfig], compute: ComputeConfig, has_flat_gradients: bool, tp_size: int
) -> Iterator[str]:
    """A line for each setting that does not go with `compute.cuda_graphs` on; none if it is not.

    `has_flat_gradients`: gradients are added to flat sums (`pipeline.engine.flat_gradients`).
    """
    if compute.cuda_graphs != "on":
        return
    if not has_flat_gradients:
        yield (
            f"{NAME} needs parallel.zero_stage 1 and no parallel.offload_optimizer: elsewhere "
            f"DeepSpeed decides on the host what becomes of each gradient; {ADVICE}, or change them"
        )
    if tp_size > 1:
        yield (
            f"{NAME} does not go with parallel.tensor {tp_size}, whose messages are not "
            f"captured: {ADVICE}, or parallel.tensor to 1"
        )
    for number, phase in enumerate(phases):
        where = f"then.{number - 1}." if number else ""
        for found in _of_phase(phase, compute):
            yield f"{NAME} does not go with {where}{found}: {ADVICE}, or change it"


def _of_phase(phase: PhaseConfig, compute: ComputeConfig) -> Iterator[str]:
    """The settings of a phase that do not go with graphs, each with the reason."""
    if phase.adversarial.type != "none":
        yield f"adversarial {phase.adversarial.type}, whose noise is drawn on the host"
    if phase.objective.type == "replaced_tokens":
        yield "objective replaced_tokens, whose two networks draw from one generator"
    if phase.model.visibility.type != "all":
        yield f"model.visibility {phase.model.visibility.type}, which is drawn on the host"
    if _seeds_layers_again(phase.model, compute):
        yield (
            f"compute.activation_checkpointing {compute.activation_checkpointing.type} together "
            "with model.attention_dropout, whose generator is set back in the backward pass "
            "(attention_backend explicit has none)"
        )


def _seeds_layers_again(model: ModelConfig, compute: ComputeConfig) -> bool:
    draws = model.attention_dropout > 0 and compute.attention_backend != "explicit"
    return draws and compute.activation_checkpointing.type != "none"
