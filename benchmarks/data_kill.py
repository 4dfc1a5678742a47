"""Kills data preparation at random moments and compares the bytes with an uninterrupted run.

``python -m benchmarks.data_kill CORPUS.jsonl ... [--kills 6] [--seed 0] [--work FOLDER]``

An uninterrupted run; one that is killed (SIGKILL) with all its processes several times and then
finished; one in which single workers are killed; one with a different number of workers and
different parts. All end with the same shards, tokenizer.json and manifest.json, or the program
exits with 1.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs import command

_ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Runs, kills, compares."""
    parser = command.plain_parser(__doc__ or "")
    parser.add_argument("corpus", nargs="+", type=Path, help="JSON lines with a key text")
    parser.add_argument("--kills", type=int, default=6, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    parser.add_argument(
        "--vocab-size", type=int, default=32_000, help="vocabulary size of the tokenizer"
    )
    parser.add_argument("--work", type=Path, help="work folder; a temporary one by default")
    arguments = parser.parse_args()
    generate = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        work = Path(folder)

        def start(name: str, workers: int, part_mb: float) -> subprocess.Popen[bytes]:
            return start_run(
                work / f"{name}.yaml",
                config_of(arguments.corpus, work / name, workers, part_mb, arguments.vocab_size),
            )

        started_at = time.monotonic()
        finish(start("uninterrupted", 2, 16))
        seconds = time.monotonic() - started_at
        expected = sums(work / "uninterrupted/rows")
        print(f"uninterrupted: {seconds:.0f} s, {len(expected)} files", flush=True)

        kills, same = 0, True
        while kills < arguments.kills:
            job = start("killed", 2, 16)
            after = generate.uniform(1, seconds / 3)
            time.sleep(after)
            if job.poll() is None:
                kills += 1
                os.killpg(job.pid, signal.SIGKILL)
                job.wait()
                print(f"kill {kills} after {after:.1f} s in {stage_in(work / 'killed/work')}")
            else:  # it finished first: start again
                finish(job)
                same &= report("killed and resumed", sums(work / "killed/rows"), expected)
                shutil.rmtree(work / "killed")
        finish(start("killed", 2, 16))
        same &= report("killed and resumed", sums(work / "killed/rows"), expected)
        shutil.rmtree(work / "killed")

        job = start("workers", 2, 16)
        for _ in range(3):
            time.sleep(generate.uniform(3, seconds / 4))
            print(f"killed worker {kill_a_worker(job.pid, generate)}", flush=True)
        finish(job)
        same &= report("workers killed", sums(work / "workers/rows"), expected)
        shutil.rmtree(work / "workers")

        finish(start("other", 1, 7))
        same &= report("1 worker, parts of 7 MB", sums(work / "other/rows"), expected)
    return 0 if same else 1


def start_run(path: Path, tree: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Starts data preparation with the config `tree`, which is written to `path`."""
    path.write_text(json.dumps(tree))
    return subprocess.Popen(
        [sys.executable, "-m", "data_prep.run", str(path)],
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


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


def finish(job: subprocess.Popen[bytes]) -> None:
    """Waits for a run; raises RuntimeError if it fails."""
    if job.wait():
        raise RuntimeError(f"the run ended with code {job.returncode}")


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


def report(name: str, got: dict[str, str], expected: dict[str, str]) -> bool:
    """Prints whether two data sets are the same."""
    keys = sorted(got.keys() | expected.keys())
    different = [key for key in keys if got.get(key) != expected.get(key)]
    result = f"DIFFERENT: {different}" if different else "the same bytes"
    print(f"{name}: {result}", flush=True)
    return not different


if __name__ == "__main__":
    command.run(main)
