"""Kills data preparation at random moments and compares the bytes with an uninterrupted run.

``python -m benchmarks.data_kill CORPUS.jsonl ... [--kills 6] [--seed 0] [--work FOLDER]``

An uninterrupted run; one that is killed (SIGKILL) with all its processes several times and then
finished; the same with only its client killed; runs in which single workers are killed; one with a
different number of workers and different parts. All end with the same shards, tokenizer.json and
manifest.json, or the program exits with 1.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.launched import Launched
from configs import command


def main() -> int:
    """Runs, kills, compares."""
    parser = command.plain_parser(__doc__ or "")
    parser.add_argument("corpus", nargs="+", type=Path, help="JSON lines with a key text")
    parser.add_argument("--kills", type=int, default=6, help="number of kills of each kind")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    parser.add_argument(
        "--vocab-size", type=int, default=32_000, help="vocabulary size of the tokenizer"
    )
    parser.add_argument("--work", type=Path, help="work folder; a temporary one by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        trial = Trial(arguments.corpus, Path(folder), arguments.vocab_size)
        started_at = time.monotonic()
        trial.start("uninterrupted").finish()
        seconds = time.monotonic() - started_at
        expected = sums(trial.rows("uninterrupted"))
        print(f"uninterrupted: {seconds:.0f} s, {len(expected)} files", flush=True)
        generate = random.Random(arguments.seed)
        results = [
            *kill_and_resume(trial, "all", os.killpg, arguments.kills, seconds, generate),
            *kill_and_resume(trial, "client", os.kill, arguments.kills, seconds, generate),
            *kill_workers(trial, arguments.kills, seconds, generate),
        ]
        trial.start("other", workers=1, part_mb=7).finish()
        results.append(sums(trial.rows("other")))
        different = [number for number, result in enumerate(results) if result != expected]
    print(f"{len(results)} data sets, different from the first: {different or 'none'}")
    return 1 if different else 0


@dataclass(frozen=True)
class Trial:
    """Runs of data preparation on one corpus, each in a folder of its name."""

    corpus: Sequence[Path]
    folder: Path
    vocab_size: int

    def start(self, name: str, workers: int = 2, part_mb: float = 16) -> Launched:
        """Starts or resumes the run `name`."""
        tree = config_of(self.corpus, self.folder / name, workers, part_mb, self.vocab_size)
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps(tree))
        return Launched(["-m", "data_prep.run", str(path)], path.with_suffix(".log"))

    def rows(self, name: str) -> Path:
        """The output of the run `name`."""
        return self.folder / name / "rows"

    def take(self, name: str) -> dict[str, str]:
        """The sums of the run `name`, which is deleted."""
        result = sums(self.rows(name))
        shutil.rmtree(self.folder / name)
        return result


def kill_and_resume(
    trial: Trial,
    kind: str,
    kill: Callable[[int, int], None],
    kills: int,
    seconds: float,
    generate: random.Random,
) -> Iterator[dict[str, str]]:
    """The sums of runs that are killed and resumed, `kills` times in all."""
    killed = 0
    while killed < kills:
        job = trial.start(kind)
        after = generate.uniform(1, seconds / 3)
        time.sleep(after)
        if job.poll() is None:
            killed += 1
            kill(job.pid, signal.SIGKILL)
            job.wait()
            stage = stage_in(trial.folder / kind / "work")
            print(f"{kind}: kill {killed} after {after:.1f} s in {stage}", flush=True)
        else:  # it finished first: start again
            job.finish()
            yield trial.take(kind)
    trial.start(kind).finish()
    yield trial.take(kind)


def kill_workers(
    trial: Trial, kills: int, seconds: float, generate: random.Random
) -> Iterator[dict[str, str]]:
    """The sums of runs that lose single workers, `kills` in all."""
    killed = 0
    while killed < kills:
        job = trial.start("workers")
        while job.poll() is None and killed < kills:
            time.sleep(generate.uniform(1, seconds / 4))
            if (worker := kill_a_worker(job.pid, generate)) is not None:
                killed += 1
                print(f"workers: kill {killed}, of process {worker}", flush=True)
        if job.wait():  # too many were killed while they started: the same command resumes
            trial.start("workers").finish()
        yield trial.take("workers")


def config_of(
    corpus: Sequence[Path], folder: Path, workers: int, part_mb: float, vocab_size: int
) -> dict[str, object]:
    """A run over all files, each a source, that trains its tokenizer."""
    return {
        "output": str(folder / "rows"),
        "work": str(folder / "work"),
        "sources": {
            path.stem: {"reader": {"type": "jsonl", "files": [str(path.resolve())]}}
            for path in corpus
        },
        "dedup": {"lines": {"max_documents": 50}},
        "decontaminate": {"max_share": 0.2},
        "tokenizer": {"type": "train", "vocab_size": vocab_size, "sample_mb": 10},
        "pack": {"shard_mb": 4},
        "part_mb": part_mb,
        "engine": {"type": "local", "workers": workers},
    }


def stage_in(work: Path) -> str:
    """The stage that was started last, and how far it is."""
    started = [path.parent for path in work.glob("*/plan.json")]
    if not started:
        return "its start"
    last = max(started, key=lambda folder: (folder / "plan.json").stat().st_mtime)
    parts = len(json.loads((last / "plan.json").read_bytes())["parts"])
    return f"{last.name}, {len(list(last.glob('*.record.json')))} of {parts} parts"


def kill_a_worker(pid: int, generate: random.Random) -> int | None:
    """Kills one worker process of a run; its process id, None where there is none."""
    workers = [child for child in children(pid) if is_worker(child)]
    if not workers:
        return None
    chosen = generate.choice(workers)
    os.kill(chosen, signal.SIGKILL)
    return chosen


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").glob("*")
        for child in (task / "children").read_text().split()
    ]


def is_worker(pid: int) -> bool:
    """Whether a process is a spawned worker."""
    return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()


def sums(folder: Path) -> dict[str, str]:
    """The sha256 of every file of a data set but the report."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("report")
    }


if __name__ == "__main__":
    command.run(main)
