"""How long saving a checkpoint blocks training: only for the snapshot, or until it is written.

``python -m benchmarks.checkpoint_stall``: one rank, 6 layers of 512, vocabulary 50,265 (45 million
parameters, checkpoints of 0.5 GB) under ZeRO 1. Saves in the background and synchronous saves
alternate; every save is on disk before the next step.
"""

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.loader_speed import ROW_TOKENS, write_rows
from configs import command
from configs.load import validate
from model.parallel.grid import make_grid
from pipeline.checkpoint.progress import Progress
from pipeline.checkpoint.writer import Saver
from pipeline.engine.start import start_distributed
from pipeline.launch.environment import Launch
from pipeline.launch.local_ranks import run_ranks
from pipeline.pretraining.batches import run_batches
from pipeline.pretraining.engine import build_engine
from pipeline.pretraining.resume import describe_checkpoint, plan_segments
from pipeline.pretraining.step import pretraining_step
from pipeline.run.config import TrainConfig
from pipeline.run.plan import plan_run


def measure(config: TrainConfig, saves: int) -> tuple[list[float], list[float]]:
    """Seconds for which (background, synchronous) saves blocked the loop."""
    plan = plan_run(config, 1)
    start_distributed(Launch(0, 0, 1, 1))
    grid = make_grid(1)
    engine = build_engine(plan, grid, None)
    saver = Saver(config.output / "checkpoints", config.checkpoint, grid)
    segments = plan_segments(plan, None)
    background: list[float] = []
    synchronous: list[float] = []
    batches = run_batches(plan, segments, (), 0, 0)
    for number in range(2 * saves + 2):
        pretraining_step(engine, next(batches), 1e-4)
        progress = Progress(number, number, None, (), ())
        manifest = describe_checkpoint(plan, engine, segments, progress)
        started = time.monotonic()
        saver.save(manifest, engine.snapshot)
        snapshot_s = time.monotonic() - started
        saver.finish()
        save_s = time.monotonic() - started
        if number < 2:  # the first saves allocate memory
            continue
        if number % 2:
            background.append(snapshot_s)
        else:
            synchronous.append(save_s)
    batches.close()
    return background, synchronous


def main() -> None:
    """Prints the seconds of both, and their ratio."""
    parser = command.plain_parser((__doc__ or "").splitlines()[0])
    parser.add_argument("--saves", type=int, default=5, help="saves of each kind")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "rows", 256)
        tree = {
            "name": "stall",
            "output": str(folder / "run"),
            "total_rows": 4000,
            "data": {"path": str(folder / "rows"), "workers": 0},
            "model": {
                "num_layers": 6,
                "hidden_size": 512,
                "num_attention_heads": 8,
                "max_row_tokens": ROW_TOKENS,
            },
            "objective": {"type": "mlm"},
            "batch": {"global_rows": 1, "micro_rows": 1},
            "checkpoint": {"keep_last": 1},
            "tracking": {"enabled": False},
        }
        config = validate(tree, TrainConfig, origin="benchmark")
        ((background, synchronous),) = run_ranks(measure, 1, config, arguments.saves, timeout_s=900)
    medians = []
    for kind, seconds in (("background", background), ("synchronous", synchronous)):
        medians.append(statistics.median(seconds))
        print(
            f"{kind} saves block training for {medians[-1]:.3f} s "
            f"(median of {[round(s, 3) for s in seconds]})"
        )
    print(f"ratio {medians[0] / medians[1]:.1%}")


if __name__ == "__main__":
    command.run(main)
