"""The plan of a run: phases, steps, batch sizes, memory, time, cost, and the fastest layout."""

import argparse
from pathlib import Path

from configs import command
from configs.load import ConfigError
from configs.terminal import visible
from configs.writable import check_file
from data_prep.dataset.atomic import write_atomic
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.run_config import load_run
from pipeline.planning.accelerators import find_accelerator, known_accelerators
from pipeline.planning.costs import STORAGE_BYTES_S
from pipeline.planning.json_plan import plan_json
from pipeline.planning.page import plan_page
from pipeline.planning.report import summarize
from pipeline.planning.request import CPU_RANKS_OPTION, RANKS_OPTION, PlanRequest
from pipeline.planning.step_time import DEFAULT_UTILIZATION
from pipeline.planning.text import text_lines
from pipeline.run.assumed_rows import MIN_VOCAB_SIZE, AssumedRows
from pipeline.run.config import TrainConfig


def main() -> None:
    """``python -m pipeline.plan CONFIG.yaml --nodes N --gpus-per-node M``."""
    parser = command.parser("Print the plan of a run; exit with 2 if it cannot work.")
    parser.add_argument("--nodes", type=int, default=1, help="nodes of the job (default: 1)")
    parser.add_argument(
        RANKS_OPTION,
        CPU_RANKS_OPTION,
        dest="gpus_per_node",
        type=int,
        metavar="N",
        help="ranks per node: accelerators, or processes with --cpu (default: as many as "
        "parallel.tensor needs)",
    )
    parser.add_argument(
        "--gpu-memory-gb",
        type=float,
        help="memory of one accelerator in GB; a run that needs more is refused",
    )
    parser.add_argument(
        "--tokens-per-s",
        type=float,
        help="measured throughput of one accelerator, from which hours are computed",
    )
    parser.add_argument(
        "--vocab-size",
        type=int,
        metavar="N",
        help="plan before the rows are made, for a tokenizer of N ids",
    )
    parser.add_argument(
        "--row-tokens",
        type=int,
        metavar="N",
        help="with --vocab-size: tokens of a row (default: model.max_row_tokens)",
    )
    _add_cost_options(parser)
    arguments = parser.parse_args()
    assumed = _assumed(arguments.vocab_size, arguments.row_tokens)
    _check_page(arguments.page)
    config = load_run(arguments.config, arguments.overrides)
    request = _request(arguments, config.parallel.tensor)
    if isinstance(config, FinetuneConfig):
        if assumed:
            raise ConfigError("--vocab-size: the plan of a fine-tuning run reads its tasks' files")
        from pipeline.finetuning import plan_report  # late: it imports torch

        plan = plan_report.summarize(config, request)
    else:
        assert isinstance(config, TrainConfig)
        plan = summarize(config, request, assumed)
    if arguments.page is not None:
        write_atomic(arguments.page, plan_page(plan))
    if arguments.json:
        print(plan_json(plan))
        return
    for line in text_lines(plan):
        print(visible(line))
    if arguments.page is not None:
        print(visible(f"{arguments.page}"))


def _add_cost_options(parser: command.CommandParser) -> None:
    parser.add_argument(
        "--cpu",
        action="store_true",
        help="the ranks are processes on CPUs: estimate their memory there, that of each",
    )
    parser.add_argument(
        "--accelerator",
        choices=sorted(known_accelerators()),
        help="compute times, costs and the fastest layout from the rates of this accelerator "
        "(docs/planner.md)",
    )
    parser.add_argument(
        "--utilization",
        type=float,
        default=DEFAULT_UTILIZATION,
        metavar="SHARE",
        help="share of the accelerator's measured rate that the model's matrix products reach "
        f"(default: {DEFAULT_UTILIZATION})",
    )
    parser.add_argument(
        "--price-per-gpu-hour", type=float, metavar="PRICE", help="of one accelerator, any currency"
    )
    parser.add_argument(
        "--storage-gb-s",
        type=float,
        default=STORAGE_BYTES_S / 1e9,
        metavar="RATE",
        help="what the file system of the checkpoints writes, 1e9 bytes a second (default: 1)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object with all details instead"
    )
    parser.add_argument(
        "--page", type=Path, metavar="FILE.html", help="also write a page with bars and tables"
    )


def _check_page(page: Path | None) -> None:
    if page is not None:
        if page.suffix.lower() not in (".html", ".htm"):
            raise ConfigError(f"--page {page}: the name of the page has to end with .html")
        check_file(page, "--page")


def _request(arguments: argparse.Namespace, tp_size: int) -> PlanRequest:
    name: str | None = arguments.accelerator
    return PlanRequest(
        num_nodes=arguments.nodes,
        gpus_per_node=tp_size if arguments.gpus_per_node is None else arguments.gpus_per_node,
        assumes_ranks=arguments.gpus_per_node is None,
        gpu_memory_gb=arguments.gpu_memory_gb,
        tokens_per_s=arguments.tokens_per_s,
        on_cpu=arguments.cpu,
        accelerator=None if name is None else find_accelerator(name),
        utilization=arguments.utilization,
        price_per_gpu_hour=arguments.price_per_gpu_hour,
        storage_gb_s=arguments.storage_gb_s,
    )


def _assumed(vocab_size: int | None, row_tokens: int | None) -> AssumedRows | None:
    if vocab_size is None:
        if row_tokens is not None:
            raise ConfigError("--row-tokens needs --vocab-size: otherwise the rows are read")
        return None
    if vocab_size < MIN_VOCAB_SIZE or (row_tokens is not None and row_tokens < 1):
        raise ConfigError(
            f"--vocab-size must be at least {MIN_VOCAB_SIZE}, and --row-tokens at least 1"
        )
    return AssumedRows(vocab_size, row_tokens)


if __name__ == "__main__":
    command.run(main)
