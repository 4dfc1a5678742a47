"""What running parts costs beside their work: a made-up stage of many parts that do nothing.

``python -m benchmarks.data_tasks [--parts 10000 100000] [--workers 2]``

Two rows for each number of parts. ``calls``: a function of one number, so that only the client, the
scheduler and the workers' messages take time. ``stage``: a stage whose parts have no output; plan,
keys, and a record that is flushed to disk for each part come on top. CPU seconds are those of
the process that runs the client and the scheduler.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs import command
from data_prep.engine.engine import Engine
from data_prep.engine.execution import run_stage
from data_prep.engine.progress import ProgressReporter
from data_prep.engine.stage import Part, PartOutput, Stage
from data_prep.engine.workers import LocalEngineConfig

_PARTS = (10_000, 100_000)


@dataclass(frozen=True, kw_only=True)
class NothingStage(Stage[Part]):
    """Does nothing."""

    name = "nothing"
    version = 1
    output = "nothing"

    def run_part(self, folder: Path, part: Part) -> PartOutput:
        """No counts and no files."""
        return PartOutput({})


class Watched:
    """An engine that notes when its first result came."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.first_at = 0.0

    def run(self, *arguments: Any, **named: Any) -> Iterator[Any]:
        """The results of the engine."""
        self.first_at = 0.0
        for result in self._engine.run(*arguments, **named):
            self.first_at = self.first_at or time.monotonic()
            yield result


def main() -> None:
    """Measures and prints."""
    parser = command.plain_parser(__doc__ or "")
    parser.add_argument("--parts", type=int, nargs="+", default=_PARTS, help="numbers of parts")
    parser.add_argument("--workers", type=int, default=2, help="worker processes")
    parser.add_argument("--work", type=Path, help="work folder; a temporary one by default")
    arguments = parser.parse_args()
    head = ("what", "parts", "client CPU s", "first part s", "whole s", "ms per part")
    print("".join(f"{title:>14}" for title in head))
    for parts in arguments.parts:
        with (
            LocalEngineConfig(workers=arguments.workers).build() as engine,
            tempfile.TemporaryDirectory(dir=arguments.work) as folder,
        ):
            list(engine.run(abs, [(-1,)], ["start"]))  # starts the workers
            for what, run in (("calls", run_calls), ("stage", run_stage_of)):
                cells = measured(run, Watched(engine), parts, Path(folder))
                print(f"{what:>14}{parts:>14,}" + "".join(f"{cell:>14,.2f}" for cell in cells))
                sys.stdout.flush()


def measured(run: Any, engine: Watched, parts: int, folder: Path) -> tuple[float, ...]:
    """(CPU seconds of this process, seconds to the first part, seconds, milliseconds per part)."""
    started_at, times = time.monotonic(), os.times()
    run(engine, parts, folder)
    seconds, now = time.monotonic() - started_at, os.times()
    cpu_s = now.user + now.system - times.user - times.system
    return cpu_s, engine.first_at - started_at, seconds, 1000 * seconds / parts


def run_calls(engine: Watched, parts: int, folder: Path) -> None:
    """Calls a function of one number so often."""
    names = [f"calls/part-{number:06d}" for number in range(parts)]
    assert sum(engine.run(abs, [(-1,)] * parts, names)) == parts


def run_stage_of(engine: Watched, parts: int, folder: Path) -> None:
    """Runs a stage of so many parts."""
    stage = NothingStage(
        parts=[Part(name=f"part-{number:06d}", num_bytes=1) for number in range(parts)], inputs={}
    )
    result = run_stage(stage, folder, engine, ProgressReporter())
    assert len(result.records) == parts


if __name__ == "__main__":
    command.run(main)
