"""The plan of a run: phases, steps, batch sizes, memory, and whether they fit the ranks."""

from configs import command
from configs.load import ConfigError
from configs.terminal import visible
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.run_config import load_run
from pipeline.run.assumed_rows import MIN_VOCAB_SIZE, AssumedRows
from pipeline.run.config import TrainConfig
from pipeline.run.plan_report import report


def main() -> None:
    """``python -m pipeline.plan CONFIG.yaml --nodes N --gpus-per-node M``."""
    parser = command.parser("Print the plan of a run; exit with 2 if it cannot work.")
    parser.add_argument("--nodes", type=int, default=1, help="nodes of the job (default: 1)")
    parser.add_argument(
        "--gpus-per-node",
        type=int,
        default=1,
        help="ranks per node, one per accelerator (default: 1)",
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
    arguments = parser.parse_args()
    assumed = _assumed(arguments.vocab_size, arguments.row_tokens)
    config = load_run(arguments.config, arguments.overrides)
    if isinstance(config, FinetuneConfig):
        if assumed:
            raise ConfigError("--vocab-size: the plan of a fine-tuning run reads its tasks' files")
        from pipeline.finetuning import plan_report  # late: it imports torch

        lines = plan_report.report(
            *(config, arguments.nodes, arguments.gpus_per_node),
            *(arguments.gpu_memory_gb, arguments.tokens_per_s),
        )
    else:
        assert isinstance(config, TrainConfig)
        lines = report(
            *(config, arguments.nodes, arguments.gpus_per_node),
            *(arguments.gpu_memory_gb, arguments.tokens_per_s, assumed),
        )
    for line in lines:
        print(visible(line))


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
