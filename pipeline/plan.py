"""The plan of a run: phases, steps, batch sizes, memory, and whether they fit the ranks."""

from configs import command
from configs.terminal import visible
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.run_config import load_run
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
    arguments = parser.parse_args()
    config = load_run(arguments.config, arguments.overrides)
    if isinstance(config, FinetuneConfig):
        from pipeline.finetuning import plan_report  # late: it imports torch

        lines = plan_report.report(
            *(config, arguments.nodes, arguments.gpus_per_node),
            *(arguments.gpu_memory_gb, arguments.tokens_per_s),
        )
    else:
        assert isinstance(config, TrainConfig)
        lines = report(
            *(config, arguments.nodes, arguments.gpus_per_node),
            *(arguments.gpu_memory_gb, arguments.tokens_per_s),
        )
    for line in lines:
        print(visible(line))


if __name__ == "__main__":
    command.run(main)
