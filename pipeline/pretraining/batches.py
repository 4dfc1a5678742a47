"""The batches of a pretraining run: its phases, segments and skipped rows as one stream."""

import contextlib
import hashlib
from collections.abc import Generator, Mapping, Sequence

from pipeline.data.loader import BatchLayout, RowStream, StepBatch, build_objective, load_batches
from pipeline.data.order import build_order, train_sources
from pipeline.data.position import RowWindow, Segment
from pipeline.run.plan import RunPlan


def build_stream(
    plan: RunPlan, phase: int, segments: Sequence[tuple[int, Mapping[str, float] | None]]
) -> RowStream:
    """The stream of a phase; `segments` are its (first position, mixture weights)."""
    this, seed = plan.phases[phase], phase_seed(plan.config.seed, phase)
    return RowStream(
        data=this.config.data,
        manifest=this.manifest,
        objective=build_objective(this.config.objective, this.config.data, this.manifest),
        order=build_order(
            train_sources(this.manifest, this.config.data.shuffle_unit), segments, seed
        ),
        seed=seed,
        total_rows=this.steps.total_rows,
        phase=phase,
        first_row=plan.steps.first_row(phase),
    )


def phase_seed(seed: int, phase: int) -> int:
    """The seed of a phase's order, masks and dropout: the run's own in the first phase."""
    if phase == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/{phase}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "little")


def run_batches(
    plan: RunPlan,
    segments: Sequence[Segment],
    skipped: Sequence[RowWindow],
    dp_rank: int,
    consumed_rows: int,
) -> Generator[StepBatch]:
    """The batches of the run from position `consumed_rows` to its end, phase after phase.

    Steps with a row in a `skipped` window are left out. Close the generator (`contextlib.closing`)
    to end the processes that make the batches.
    """
    first_phase, row = plan.steps.locate(consumed_rows)
    for phase in range(first_phase, len(plan.phases)):
        this = plan.phases[phase]
        mixtures = [(s.start_row, s.weights) for s in segments if s.phase == phase]
        stream = build_stream(plan, phase, mixtures)
        layout = BatchLayout(this.config.batch.micro_rows, dp_rank, this.dp_size)
        loading = load_batches(stream, this.steps, layout, start_row=row, skipped=skipped)
        with contextlib.closing(loading) as batches:
            yield from batches
        row = 0
