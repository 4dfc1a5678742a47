"""The plan of a fine-tuning run on a launch, or of a sweep: memory, time, cost, other layouts."""

from collections.abc import Iterator

from configs.load import ConfigError
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.memory import (
    advice,
    count_finetuned,
    estimate_finetuning,
    finetuned_checkpoint_bytes,
    largest_batch_line,
)
from pipeline.finetuning.plan import FinetunePlan, plan_finetuning
from pipeline.finetuning.plan_time import (
    FinetuneLayouts,
    finetuning_overrides,
    model_flops,
    run_time,
)
from pipeline.finetuning.sweep.children import all_children, sweep_of
from pipeline.finetuning.sweep.results import read_results, wanted_children
from pipeline.finetuning.sweep.table import table_lines
from pipeline.planning.report import run_cost, what_fits
from pipeline.planning.request import PlanRequest
from pipeline.planning.search import fastest, search
from pipeline.planning.step_time import Rates
from pipeline.planning.summary import Comparison, PlanSummary, StageTime
from pipeline.run import run_folder
from pipeline.start.record import own_checkpoint


def summarize(config: FinetuneConfig, request: PlanRequest) -> PlanSummary:
    """The plan in numbers; needs no accelerator and writes nothing. Of a sweep, the plan of its
    first child, and how many there are.

    Raises the errors of `plan_finetuning`, and ConfigError for more memory than there is.
    """
    heading = request.assumptions()
    one = config
    if config.sweep is not None:
        heading += _sweep_lines(config)
        one = all_children(config)[0].config
    request.check_tensor(one.parallel.tensor)
    plan = plan_finetuning(one, request.world_size, is_first=False)
    changes = run_folder.check_claim(plan.config, plan.data_fingerprint)
    newest = own_checkpoint(one.output)
    heading += plan.summary_lines(newest.manifest.step if newest else 0)
    memory = estimate_finetuning(plan, request.on_cpu)
    comparison = None if request.rates is None else _compare(plan, request, request.rates)
    if request.memory_gb is not None and memory.total_gb > request.memory_gb:
        raise ConfigError(
            f"does not fit: {memory.summary()}, but one has {request.memory_gb:g} GB; "
            f"{advice(plan, memory, request)}{what_fits(comparison, request)}"
        )
    found, tokens = count_finetuned(plan), _tokens(plan)
    stages = () if request.rates is None else (_stage(plan, request, request.rates, tokens),)
    saved = finetuned_checkpoint_bytes(plan)
    return PlanSummary(
        request=request,
        name=config.name,
        heading=tuple(heading),
        num_steps=plan.config.num_steps,
        tokens=tokens,
        token_words=" without padding",
        parameters=found.total,
        trained_parameters=found.trained,
        memory=memory,
        checkpoint_bytes=saved,
        stages=stages,
        cost=run_cost(request, tokens, stages, saved),
        comparison=comparison,
        notes=(largest_batch_line(plan),),
        changes=tuple(changes),
    )


def _compare(plan: FinetunePlan, request: PlanRequest, rates: Rates) -> Comparison:
    assert request.memory_gb is not None
    run = FinetuneLayouts(plan, request.num_nodes, request.gpus_per_node, rates)
    outcomes = search(run, request.memory_gb)
    best = fastest(outcomes)
    overrides = {} if best is None else finetuning_overrides(best, plan.config)
    return Comparison(tuple(outcomes), overrides, scaling=())


def _stage(plan: FinetunePlan, request: PlanRequest, rates: Rates, tokens: float) -> StageTime:
    whole = run_time(plan, request.num_nodes, request.gpus_per_node, rates)
    steps = plan.config.num_steps
    return StageTime("the run", steps, tokens, whole.times(1 / steps), whole, model_flops(plan))


def _tokens(plan: FinetunePlan) -> float:
    config, order = plan.config, plan.task_order
    tokens = 0.0
    for name, file in plan.train.items():
        rows = [len(row) for example in file.examples for row in example.rows]
        task = config.tasks[name]
        taken = order.num_batches(name) * task.examples_per_step * task.rows_per_example
        tokens += taken * sum(rows) / len(rows)
    if plan.mlm is not None and config.mlm is not None:
        rows_of_mlm = config.num_steps * config.mlm.rows_per_step
        tokens += rows_of_mlm * plan.mlm.manifest.row_tokens
    return tokens


def _sweep_lines(config: FinetuneConfig) -> Iterator[str]:
    sweep, results = sweep_of(config), read_results(config)
    wanted = wanted_children(config, results.children)
    seeds = f"{sweep.seeds} seeds" if sweep.seeds > 1 else "one seed"
    of = " of the best setting" if sweep.seeds_of == "best_setting" else ""
    later = len(sweep.settings) + sweep.seeds - 1 if of else len(wanted)
    yield f"sweep: {len(sweep.settings)} settings, {seeds}{of}: {later} children"
    if results.children:
        yield f"  {len(results.children)} have ended"
        yield from (f"  {line}" for line in table_lines(results))
    yield f"the first child, {wanted[0].name}:"
