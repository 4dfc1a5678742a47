"""Whether memory, threads, open files and shared memory stay flat over many steps and saves.

``python -m benchmarks.long_run [--steps 2000] [--save-every 5]``

One run of two ranks with loader workers and the sender process, started by torchrun. All processes
of each kind are measured together every half second. The program prints the medians of the second,
third and last quarter of the run, and exits with 1 if the last quarter is above the second by more
than the limits below.
"""

import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import psutil

from benchmarks.training_kill import kind_of, num_events, processes, start
from configs import command
from configs.load import validate
from pipeline.run.config import TrainConfig
from tests.pipeline.training_run import make_config, make_rows

MAX_GROWTH = {"memory (MB)": 1.05, "threads": 1.0, "open files": 1.0, "shared memory": 1.0}
"""The largest ratio of the last quarter's median to that of the second quarter. Memory approaches
its final size slowly while the heap fragments: a leak is a growth that longer runs repeat."""
Sample = tuple[float, dict[str, float]]
"""(share of the steps taken, measured values by "kind: quantity")"""


def main() -> int:
    """Runs, measures, prints; 1 if anything grows."""
    parser = command.plain_parser(__doc__ or "")
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps (default: 2000)")
    parser.add_argument("--save-every", type=int, default=5, help="steps between checkpoints")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_rows(folder / "rows")
        config = make_config(
            folder / "rows",
            folder / "run",
            workers=2,
            total_rows=16 * arguments.steps,
            checkpoint={"every_steps": arguments.save_every},
            evaluation={"every_steps": 100, "rows_per_source": 4},
            tracking={"enabled": True},
        )
        path = folder / "run.yaml"
        path.write_text(config.model_dump_json())
        samples = measure(validate(config.model_dump(), TrainConfig, "run"), path, arguments.steps)
    return 0 if print_growth(samples) else 1


def measure(config: TrainConfig, path: Path, steps: int) -> list[Sample]:
    """Runs to the end and samples all processes; raises RuntimeError if the run fails."""
    samples = []
    job = start(path)
    while job.poll() is None:
        samples.append((num_events(config) / steps, values_now(processes(job))))
        time.sleep(0.5)
    job.finish()
    return samples


def values_now(running: list[psutil.Process]) -> dict[str, float]:
    """The present values of all processes, summed by their kind."""
    values: dict[str, float] = defaultdict(float)
    for process in running:
        kind = kind_of(process)
        if kind is None:
            continue
        try:
            memory = process.memory_full_info().uss / 1e6
            threads, files = process.num_threads(), process.num_fds()
            segments = sum("/dev/shm/" in mapping.path for mapping in process.memory_maps(False))
        except psutil.NoSuchProcess:
            continue
        values[f"{kind}: memory (MB)"] += memory
        values[f"{kind}: threads"] += threads
        values[f"{kind}: open files"] += files
        values[f"{kind}: shared memory"] += segments
    return values


def print_growth(samples: list[Sample]) -> bool:
    """Prints the medians of the quarters; whether nothing grows."""
    names = sorted({name for _, values in samples for name in values})
    flat = True
    print(f"{'':28}{'2nd quarter':>12}{'3rd':>10}{'4th':>10}")
    for name in names:
        medians = [
            statistics.median(
                [
                    values[name]
                    for share, values in samples
                    if low <= share < high and name in values
                ]
            )
            for low, high in ((0.25, 0.5), (0.5, 0.75), (0.75, 1.0))
        ]
        limit = MAX_GROWTH[name.partition(": ")[2]]
        grows = medians[2] > limit * medians[0]
        flat &= not grows
        print(
            f"{name:28}{medians[0]:12.1f}{medians[1]:10.1f}{medians[2]:10.1f}"
            + ("  GROWS" if grows else "")
        )
    return flat


if __name__ == "__main__":
    command.run(main)
