"""The work of a pretraining run: what its phases compute, and how long they take."""

from collections.abc import Sequence
from dataclasses import dataclass

from model.adversarial_options import passes_per_step
from model.config import ModelConfig
from model.generator import generator_of
from model.objectives import ReplacedTokensConfig
from model.size import count_matrix_parameters
from pipeline.optim.muon import MuonConfig
from pipeline.optim.union import OptimizerConfig
from pipeline.planning.data_parallel import Rank, Trained
from pipeline.planning.step_time import Rates, StepTime, step_time
from pipeline.planning.work import NetworkPass
from pipeline.run.memory import count_trained, networks_of
from pipeline.run.plan import PhasePlan, RunPlan


@dataclass(frozen=True)
class PhaseTime:
    """How long a phase takes."""

    num_steps: int
    whole: StepTime
    """Of all its steps together."""
    last_step: StepTime
    """Of a step after the batch warm-up."""


def trained_of(plan: RunPlan) -> Trained:
    """What the run trains, with the layout of its config."""
    config = plan.config
    networks = networks_of(config.model, config.objective)
    vocab_size = config.compute.padded_vocab_size(plan.vocab_size)
    return Trained(
        precision=config.precision,
        value_bytes=config.value_bytes,
        compute=config.compute,
        vocab_size=vocab_size,
        parameters=count_trained(config, vocab_size),
        in_matrices=sum(map(count_matrix_parameters, networks)),
        num_tensors=sum(map(count_tensors, networks)),
        optimizer=config.optimizer,
        zero_stage=config.parallel.zero_stage,
        gather_ranks=config.parallel.zero_gather_ranks,
        reduces_once=config.parallel.reduce_gradients == "step",
        offloads=config.parallel.offload_optimizer,
        has_flat_gradients=config.has_flat_gradients,
        update_flops=update_flops(config.optimizer, networks),
    )


def passes_of(phase: PhasePlan, model: ModelConfig) -> tuple[NetworkPass, ...]:
    """What a micro-batch of `phase` computes on `model`."""
    objective, row_tokens = phase.config.objective, phase.manifest.row_tokens
    slots = objective.num_slots(row_tokens)
    if isinstance(objective, ReplacedTokensConfig):
        generator = generator_of(model, objective)
        of_generator = NetworkPass(generator, row_tokens, slots, reads_all=False)
        return NetworkPass(model, row_tokens, 0), of_generator
    adversarial, is_causal = phase.config.adversarial, objective.IS_CAUSAL
    reads_all = is_causal or adversarial.type != "none"
    repeats = passes_per_step(adversarial)
    return (NetworkPass(model, row_tokens, slots, repeats, is_causal, reads_all=reads_all),)


def phase_times(plan: RunPlan, num_nodes: int, gpus_per_node: int, rates: Rates) -> list[PhaseTime]:
    """Of every phase, the seconds on `num_nodes` x `gpus_per_node` ranks; `plan` is for these."""
    trained = trained_of(plan)
    rank = Rank(plan.tp_size, plan.dp_size, num_nodes, gpus_per_node)
    return [phase_time(phase, trained, rank, rates) for phase in plan.phases]


def phase_time(phase: PhasePlan, trained: Trained, rank: Rank, rates: Rates) -> PhaseTime:
    """The seconds of one phase."""
    passes, whole, step = passes_of(phase, phase.config.model), StepTime(), StepTime()
    micro_rows = phase.config.batch.micro_rows
    for start, end, step_rows in phase.steps.segments:
        accumulation = phase.accumulation(step_rows)
        step = step_time(passes, trained, micro_rows, accumulation, rank, rates)
        whole += step.times((end - start) // step_rows)
    return PhaseTime(phase.steps.total_steps, whole, step)


def count_tensors(model: ModelConfig) -> int:
    """Parameter tensors of a network with its masked-language-model head."""
    norm = 2 if model.norm.type == "layer_norm" and model.bias.norm else 1
    layer = 4 + 2 * norm + (2 * norm if model.query_key_norm else 0)
    layer += 2 * model.bias.attention + model.bias.mlp + (model.bias.mlp and model.bias.mlp_up)
    layers = model.num_layers
    if model.parameter_sharing.type == "groups":
        layers = model.parameter_sharing.num_groups
    rest = 1 + (model.positions.type == "learned") + (model.type_vocab_size > 0)
    rest += norm * (model.embedding_norm + (model.norm_placement.type == "pre"))
    rest -= 0 if model.first_norm else norm
    rest += 2 * (model.embedding_size is not None)
    rest += (1 + norm + model.bias.head if model.head_layers else 0) + model.bias.decoder
    return layers * layer + rest + (0 if model.tied_decoder else 1)


def update_flops(optimizer: OptimizerConfig, networks: Sequence[ModelConfig]) -> float:
    """Newton-Schulz iterations of Muon: gram, its square and the update, of every matrix."""
    if not isinstance(optimizer, MuonConfig):
        return 0.0
    total = 0.0
    for model in networks:
        hidden, inner = model.hidden_size, model.ffn_hidden_size
        width = model.key_value_heads * model.head_size
        shapes = [(hidden, hidden)] * 2 + [(width, hidden)] * 2
        shapes += [(inner, hidden)] * (3 if model.is_gated else 2)
        one = sum(4 * min(s) ** 2 * max(s) + 2 * min(s) ** 3 for s in shapes)
        total += model.num_layers * one
    return total * optimizer.iterations
