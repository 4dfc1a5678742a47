"""A pretraining run under other layouts, for the search."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from configs.load import ConfigError
from model.compute import (
    ActivationCheckpointing,
    CheckpointLayers,
    KeepActivations,
    KeepProducts,
)
from pipeline.planning.data_parallel import Rank, Trained
from pipeline.planning.pretraining import phase_time, trained_of
from pipeline.planning.search import Outcome, Recomputed, Variant, micro_batches_of
from pipeline.planning.step_time import Rates, StepTime
from pipeline.run.config import ZERO_3_COMPILED, ParallelConfig
from pipeline.run.memory import MemoryEstimate, estimate_memory
from pipeline.run.phase_checks import check_models
from pipeline.run.plan import PhasePlan, RunPlan

PARALLEL_KEYS = ("tensor", "zero_stage", "zero_gather_ranks", "reduce_gradients")
"""Keys of `parallel` that a variant decides."""


@dataclass(frozen=True)
class PretrainingLayouts:
    """The layouts of `plan` on a launch, which may be another one than that of the plan."""

    plan: RunPlan
    num_nodes: int
    gpus_per_node: int
    rates: Rates

    @property
    def world_size(self) -> int:
        """Ranks."""
        return self.num_nodes * self.gpus_per_node

    @property
    def num_stages(self) -> int:
        """Phases."""
        return len(self.plan.phases)

    def row_tokens(self, stage: int) -> int:
        """Tokens of a row of a phase."""
        return self.plan.phases[stage].manifest.row_tokens

    def micro_batches(self, stage: int, dp_size: int) -> Sequence[int]:
        """Divisors of all steps of the phase; raises ConfigError where there are none."""
        segments = self.plan.phases[stage].steps.segments
        return micro_batches_of([segment.step_rows for segment in segments], dp_size)

    def under(self, variant: Variant) -> "_Prepared":
        """The run under `variant`; raises ConfigError where a model does not split over the
        tensor-parallel ranks."""
        config, dp_size = self.plan.config, self.world_size // variant.tp_size
        parallel = parallel_of(variant, config.parallel)
        again = recomputation(config.compute.activation_checkpointing, variant.recomputed)
        compute = config.compute.model_copy(update={"activation_checkpointing": again})
        config = config.model_copy(update={"parallel": parallel, "compute": compute})
        check_models(config, variant.tp_size)
        if config.compiles_under_zero_3:
            raise ConfigError(ZERO_3_COMPILED)
        if errors := config.graph_errors:
            raise ConfigError("\n".join(errors))
        plan = replace(
            self.plan,
            config=config,
            phases=tuple(replace(phase, dp_size=dp_size) for phase in self.plan.phases),
            tp_size=variant.tp_size,
            dp_size=dp_size,
        )
        rank = Rank(variant.tp_size, dp_size, self.num_nodes, self.gpus_per_node)
        return _Prepared(plan, trained_of(plan), rank, self.rates)


@dataclass(frozen=True)
class _Prepared:
    """A pretraining run under a variant."""

    plan: RunPlan
    trained: Trained
    rank: Rank
    rates: Rates

    def memory(self, stage: int, micro_rows: int) -> MemoryEstimate:
        phase = _with_rows(self.plan.phases[stage], micro_rows)
        return estimate_memory(replace(self.plan, phases=(phase,)))

    def time(self, stage: int, micro_rows: int) -> StepTime:
        phase = _with_rows(self.plan.phases[stage], micro_rows)
        return phase_time(phase, self.trained, self.rank, self.rates).whole


def parallel_of(variant: Variant, given: ParallelConfig) -> ParallelConfig:
    """`given` under a variant."""
    reduced = "step" if variant.reduces_once else "auto"
    values = (variant.tp_size, variant.zero_stage, variant.gather_ranks, reduced)
    return given.model_copy(update=dict(zip(PARALLEL_KEYS, values, strict=True)))


def parallel_overrides(variant: Variant, given: ParallelConfig) -> dict[str, object]:
    """The keys that make `given` that of a variant; without those that have the value already."""
    wanted = parallel_of(variant, given)
    return {
        f"parallel.{key}": getattr(wanted, key)
        for key in PARALLEL_KEYS
        if getattr(wanted, key) != getattr(given, key)
    }


def recomputation(
    given: ActivationCheckpointing, recomputed: Recomputed
) -> ActivationCheckpointing:
    """The setting for a variant: as `given` where that is of the same type."""
    if given.type == recomputed:
        return given
    kinds: dict[Recomputed, ActivationCheckpointing] = {
        "none": KeepActivations(),
        "selective": KeepProducts(),
        "layers": CheckpointLayers(),
    }
    return kinds[recomputed]


def overrides_of(outcome: Outcome, plan: RunPlan) -> dict[str, object]:
    """The config keys that give `plan` a layout; without those that have the value already."""
    variant, config = outcome.variant, plan.config
    given = config.compute.activation_checkpointing
    again = recomputation(given, variant.recomputed)
    result = parallel_overrides(variant, config.parallel)
    if again != given:
        result["compute.activation_checkpointing"] = again.model_dump(mode="json")
    rows = [stage.micro_rows for stage in outcome.stages]
    if rows != [phase.config.batch.micro_rows for phase in plan.phases]:
        for number, micro_rows in enumerate(rows):  # a later phase has those of the one before
            where = f"then.{number - 1}." if number else ""
            result[f"{where}batch.micro_rows"] = micro_rows
    return result


def _with_rows(phase: PhasePlan, micro_rows: int) -> PhasePlan:
    batch = phase.config.batch.model_copy(update={"micro_rows": micro_rows})
    return replace(phase, config=phase.config.model_copy(update={"batch": batch}))
