"""Step time with the tracking server down, relative to tracking off.

``python -m benchmarks.tracking_overhead``

Runs of one rank alternate between off and down, and the medians of their step times are compared
pair by pair. "Down" is the worst case for training: the sender process starts, imports MLflow,
and keeps trying to reach a server that is not there, while every step writes to the event log.
"""

import statistics
import tempfile
from pathlib import Path

from configs import command
from pipeline.launch.environment import Launch
from pipeline.launch.local_ranks import run_ranks
from pipeline.pretraining.loop import train
from pipeline.run import run_folder
from pipeline.run.config import TrainConfig
from pipeline.run.plan import plan_run
from pipeline.tracking.event_log import LOG_NAME, read_events
from tests.pipeline.training_run import make_config, make_rows

NOWHERE = "http://127.0.0.1:9"
SKIPPED_STEPS = 10


def main() -> None:
    """Prints the median step of each run and the median ratio of the pairs."""
    parser = command.plain_parser(__doc__ or "")
    parser.add_argument("--pairs", type=int, default=7, help="pairs of runs (default 7)")
    parser.add_argument("--steps", type=int, default=150, help="steps of a run (default 150)")
    arguments = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_rows(folder / "rows", row_tokens=128)
        for pair in range(arguments.pairs):
            order = ("off", "down") if pair % 2 else ("down", "off")
            step_s = {
                kind: median_step_s(folder, f"{kind}-{pair}", kind == "down", arguments.steps)
                for kind in order
            }
            ratios.append(step_s["down"] / step_s["off"])
            print(
                f"pair {pair + 1}: off {1000 * step_s['off']:.2f} ms, "
                f"down {1000 * step_s['down']:.2f} ms, ratio {ratios[-1]:.4f}",
                flush=True,
            )
    print(f"median ratio {statistics.median(ratios):.4f} of {len(ratios)} pairs")


def median_step_s(folder: Path, name: str, tracked: bool, steps: int) -> float:
    """The median step time of one run in seconds, without its first steps."""
    config = make_config(
        folder / "rows",
        folder / name,
        total_rows=16 * steps,
        model={
            "num_layers": 3,
            "hidden_size": 128,
            "num_attention_heads": 4,
            "max_row_tokens": 128,
        },
        evaluation={"every_steps": steps, "rows_per_source": 4},
        tracking={"enabled": tracked, "uri": NOWHERE},
    )
    run_ranks(_train, 1, config)
    events = [event for event, _ in read_events(config.output / LOG_NAME)]
    steps_s: list[float] = [
        event["values"]["step_s"] for event in events if event["kind"] == "metrics"
    ]
    assert len(steps_s) == steps, "a step is missing from the event log"
    return statistics.median(steps_s[SKIPPED_STEPS:])


def _train(config: TrainConfig) -> None:
    plan = plan_run(config, 1)
    run_folder.claim(config, plan.data_fingerprint)
    train(plan, Launch(0, 0, 1, 1))


if __name__ == "__main__":
    command.run(main)
