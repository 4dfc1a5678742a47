"""The fastest layout that fits: tensor parallelism x ZeRO x recomputation x micro-batches.

None of these changes what is trained. All combinations are computed; those that are not taken say
why: sizes that do not divide, memory, or time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from configs.load import ConfigError
from pipeline.planning.step_time import StepTime
from pipeline.run.memory import MemoryEstimate

Recomputed = Literal["none", "selective", "layers"]
RECOMPUTED: tuple[Recomputed, ...] = ("none", "selective", "layers")
"""The simplest first."""
CLOSE = 1.01
"""Layouts whose times differ by less are equally fast: the one with less memory is taken."""
MAX_MICRO_ROWS = 4096
ENOUGH_TOKENS = 65_536
"""Larger micro-batches are taken only where they are faster by more than `CLOSE`."""


@dataclass(frozen=True)
class Variant:
    """A layout without its micro-batches."""

    tp_size: int
    zero_stage: int
    recomputed: Recomputed = "none"
    """The type of `compute.activation_checkpointing`."""
    gather_ranks: int | None = None
    """`parallel.zero_gather_ranks`: all of a node, or none."""
    reduces_once: bool = False
    """`parallel.reduce_gradients` is step; for ZeRO 3."""

    def words(self) -> str:
        """As one line of text."""
        again = {
            "none": "",
            "selective": ", selective recomputation",
            "layers": ", layers computed again",
        }[self.recomputed]
        copies = ", a copy of the weights in every node" if self.gather_ranks else ""
        once = ", gradients reduced once a step" if self.reduces_once else ""
        return f"tensor parallel {self.tp_size}, ZeRO {self.zero_stage}{copies}{once}{again}"


@dataclass(frozen=True)
class Stage:
    """One phase under a variant."""

    micro_rows: int
    memory: MemoryEstimate
    time: StepTime
    """Of all its steps."""


@dataclass(frozen=True)
class Outcome:
    """What became of a variant."""

    variant: Variant
    stages: tuple[Stage, ...] = ()
    """Empty where it cannot be used."""
    refusal: str = ""
    """Why it cannot be used."""

    @property
    def fits(self) -> bool:
        """Whether it can be used."""
        return not self.refusal

    @property
    def time(self) -> StepTime:
        """Of all steps of the run."""
        return sum((stage.time for stage in self.stages), StepTime())

    @property
    def memory_gb(self) -> float:
        """Of the phase that needs most."""
        return max(stage.memory.total_gb for stage in self.stages)


class Prepared(Protocol):
    """A run under a variant."""

    def memory(self, stage: int, micro_rows: int) -> MemoryEstimate:
        """Of one rank, in that phase."""

    def time(self, stage: int, micro_rows: int) -> StepTime:
        """Of all steps of the phase."""


class Searched(Protocol):
    """A run on a number of ranks, whose layouts are compared."""

    @property
    def world_size(self) -> int:
        """Ranks."""

    @property
    def gpus_per_node(self) -> int:
        """Ranks of a node, inside of which tensor-parallel ranks are."""

    @property
    def num_stages(self) -> int:
        """Phases, each of which has micro-batches of its own."""

    def row_tokens(self, stage: int) -> int:
        """Tokens of a row of a phase."""

    def micro_batches(self, stage: int, dp_size: int) -> Sequence[int]:
        """Rows that a micro-batch of a phase may have on `dp_size` data-parallel ranks, ascending;
        raises ConfigError where these do not divide its steps."""

    def under(self, variant: Variant) -> Prepared:
        """The run under a variant; raises ConfigError where sizes do not divide."""


def variants(run: Searched) -> Iterator[Variant]:
    """All layouts without micro-batches, the simplest first."""
    for tp_size in range(1, run.gpus_per_node + 1):
        if run.gpus_per_node % tp_size:
            continue
        for recomputed in RECOMPUTED:
            yield Variant(tp_size, 1, recomputed)
            if run.world_size == tp_size:
                continue
            yield Variant(tp_size, 2, recomputed)
            for once in (False, True):
                yield Variant(tp_size, 3, recomputed, None, once)
                if tp_size < run.gpus_per_node < run.world_size:
                    yield Variant(tp_size, 3, recomputed, run.gpus_per_node // tp_size, once)


def search(run: Searched, memory_gb: float) -> list[Outcome]:
    """What became of every variant on accelerators of `memory_gb`, the fastest first."""
    outcomes = [_outcome(run, variant, memory_gb) for variant in variants(run)]
    return sorted(outcomes, key=lambda found: (not found.fits, found.time.total))


def fastest(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The one to use: of those that are equally fast, the simplest; None: none fits."""
    fitting = [found for found in outcomes if found.fits]
    if not fitting:
        return None
    limit = fitting[0].time.total * CLOSE
    close = [found for found in fitting if found.time.total <= limit]
    return min(
        close,
        key=lambda found: (
            found.variant.tp_size,
            RECOMPUTED.index(found.variant.recomputed),
            found.variant.zero_stage,
            found.variant.reduces_once,
            found.variant.gather_ranks is not None,
        ),
    )


def _outcome(run: Searched, variant: Variant, memory_gb: float) -> Outcome:
    stages = []
    try:
        prepared = run.under(variant)
        for number in range(run.num_stages):
            choices = run.micro_batches(number, run.world_size // variant.tp_size)
            found = _best_stage(prepared, number, choices, run.row_tokens(number), memory_gb)
            if isinstance(found, str):
                return Outcome(variant, refusal=found)
            stages.append(found)
    except ConfigError as error:
        return Outcome(variant, refusal=f"does not divide: {str(error).splitlines()[0]}")
    return Outcome(variant, tuple(stages))


def _best_stage(
    run: Prepared, number: int, choices: Sequence[int], row_tokens: int, memory_gb: float
) -> Stage | str:
    """The fastest micro-batches that fit, or why there are none. Of those that are equally fast by
    count, large ones: their products come nearer to the rate of the table."""
    stages: list[Stage] = []
    for micro_rows in choices:  # memory grows with them
        memory = run.memory(number, micro_rows)
        if memory.total_gb > memory_gb:
            if not stages:
                return (
                    f"memory: {memory.total_gb:,.1f} GB with micro-batches of {micro_rows}, of "
                    f"{memory_gb:g} GB"
                )
            break
        stages.append(Stage(micro_rows, memory, run.time(number, micro_rows)))
    limit = min(stage.time.total for stage in stages) * CLOSE
    close = [stage for stage in stages if stage.time.total <= limit]
    enough = [stage for stage in close if stage.micro_rows * row_tokens <= ENOUGH_TOKENS]
    return enough[-1] if enough else close[0]


def micro_batches_of(sizes: Sequence[int], dp_size: int) -> list[int]:
    """Rows of a micro-batch that divide every step of `sizes` rows on `dp_size` ranks, ascending.

    Raises ConfigError where there are none.
    """
    most = min(min(sizes) // dp_size, MAX_MICRO_ROWS)
    found = [
        rows for rows in range(1, most + 1) if all(size % (rows * dp_size) == 0 for size in sizes)
    ]
    if not found:
        shown = ", ".join(f"{size:,}" for size in sorted(set(sizes)))
        raise ConfigError(f"{dp_size:,} data-parallel ranks do not divide steps of {shown} rows")
    return found
