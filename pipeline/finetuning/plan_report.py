"""What `python -m pipeline.plan` prints of a fine-tuning run, or of a sweep."""

from collections.abc import Iterator

from configs.load import ConfigError
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.memory import memory_lines
from pipeline.finetuning.plan import FinetunePlan, plan_finetuning
from pipeline.finetuning.sweep.children import all_children, sweep_of
from pipeline.finetuning.sweep.results import read_results, wanted_children
from pipeline.finetuning.sweep.table import table_lines
from pipeline.run import run_folder
from pipeline.start.record import own_checkpoint


def report(
    config: FinetuneConfig,
    num_nodes: int,
    gpus_per_node: int,
    gpu_memory_gb: float | None = None,
    tokens_per_s: float | None = None,
) -> Iterator[str]:
    """The plan, a line each; needs no accelerator and writes nothing. Of a sweep, the plan of its
    first child, and how many there are.

    Raises the errors of `plan_finetuning`, and ConfigError for more memory than `gpu_memory_gb`.
    """
    if num_nodes < 1 or gpus_per_node < 1:
        raise ConfigError(
            f"--nodes {num_nodes} --gpus-per-node {gpus_per_node}: both must be at least 1"
        )
    one = config
    if config.sweep is not None:
        yield from _sweep_lines(config)
        one = all_children(config)[0].config
    plan = plan_finetuning(one, num_nodes * gpus_per_node, is_first=False)
    changes = run_folder.check_claim(plan.config, plan.data_fingerprint)
    memory = list(memory_lines(plan, gpu_memory_gb))
    newest = own_checkpoint(one.output)
    yield from plan.summary_lines(newest.manifest.step if newest else 0)
    yield from memory
    yield from _time_lines(plan, tokens_per_s)
    yield from changes


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


def _time_lines(plan: FinetunePlan, tokens_per_s: float | None) -> Iterator[str]:
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
    yield f"tokens {tokens:,.0f} without padding in {config.num_steps:,} steps"
    if tokens_per_s:
        hours = tokens / (tokens_per_s * plan.tp_size * plan.dp_size) / 3600
        yield f"time about {hours:,.2f} h at {tokens_per_s:,.0f} tokens/s an accelerator"
