"""Runs the benchmarks one after another, each in a process of its own, and keeps what they print.

    python -m benchmarks.suite FOLDER [--only NAME ...] [--quick]

FOLDER/NAME.txt has what a benchmark printed, NAME.log its messages and those of DeepSpeed, and
results.json all of them: command, exit code, seconds, processor seconds, lines and tables. A
benchmark that fails is reported at the end (exit code 1); the others run all the same.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from configs import command
from configs.load import UserError
from data_prep.dataset.atomic import write_atomic
from pipeline.run.versions import versions

ROOT = Path(__file__).resolve().parent.parent
RESULTS_NAME = "results.json"
CORPUS = "CORPUS"
"""In arguments: the files of the benchmark corpus, which is made first."""
WORK = "WORK"
"""In arguments: a folder of the benchmark's own."""
CHATTER = re.compile(r"^\[\d{4}-\d\d-\d\d [^\]]*\] \[|^\S+Warning: |^\s*$")
"""Lines of libraries that are no results."""


@dataclass(frozen=True)
class Benchmark:
    """A module of this package with its arguments."""

    module: str
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] | None = ()
    """Its arguments with ``--quick``, minutes for all together; None: left out then."""
    needs_gpu: bool = False

    def command(self, folder: Path, corpus: Sequence[Path], is_quick: bool) -> list[str]:
        """What is run."""
        arguments = self.quick if is_quick else self.arguments
        words: list[str] = []
        for word in arguments or ():
            words += map(str, corpus) if word == CORPUS else [word.replace(WORK, str(folder))]
        return [sys.executable, "-m", f"benchmarks.{self.module}", *words]


BENCHMARKS = {
    "data-dedup": Benchmark("data_dedup", (CORPUS,), (CORPUS, "--mb", "5")),
    "data-throughput": Benchmark(
        "data_throughput",
        (CORPUS, "--scaling", "1", "2", "4", "--repeat", "2"),
        None,
    ),
    "data-tasks": Benchmark("data_tasks", (), ("--parts", "1000")),
    "data-joins": Benchmark("data_joins", (), ("--documents", "20000", "40000")),
    "object-store": Benchmark("object_store", (), ("--mb", "8", "--part-mb", "4")),
    "data-languages": Benchmark("data_languages", (f"{WORK}/packages",), None),
    "data-decontamination": Benchmark("data_decontamination", (f"{WORK}/packages",), None),
    "loader-speed": Benchmark("loader_speed", (), ("--rows", "16384", "--steps", "2")),
    "model-speed": Benchmark("model_speed", ("--steps", "3"), None),
    "checkpoint-stall": Benchmark("checkpoint_stall", (), ("--saves", "1")),
    "tracking-overhead": Benchmark("tracking_overhead", (), None),
    "family-parity": Benchmark(
        "family_parity", (), ("--layers", "2", "--hidden-size", "96", "--family", "roberta")
    ),
    "long-run": Benchmark("long_run", (), None),
    "training-kill": Benchmark("training_kill", (), None),
    "data-kill": Benchmark("data_kill", (CORPUS,), None),
    "gpu-speed": Benchmark("gpu_speed", ("--compile",), None, needs_gpu=True),
}
"""By name. Hours in all: `benchmarks.learning`, `muon_steps` and `time_to_loss` are studies of
their own, `data_formats` needs checkouts of other projects."""


@dataclass(frozen=True)
class Outcome:
    """What became of a benchmark."""

    command: list[str]
    exit_code: int
    wall_s: float
    cpu_s: float
    lines: list[str]
    tables: list[list[dict[str, str]]]


def main() -> int:
    """``python -m benchmarks.suite FOLDER [--only NAME ...] [--quick]``."""
    parser = command.plain_parser((__doc__ or "").splitlines()[0])
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="of results, kept")
    parser.add_argument(
        "--only", nargs="+", choices=list(BENCHMARKS), metavar="NAME", help="run these only"
    )
    parser.add_argument("--quick", action="store_true", help="cut forms, to see that they work")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    names = arguments.only or [
        name
        for name, one in BENCHMARKS.items()
        if (not one.needs_gpu or has_gpu()) and not (arguments.quick and one.quick is None)
    ]
    corpus = corpus_of(folder) if any(_needs_corpus(BENCHMARKS[n]) for n in names) else []
    failed = []
    for name in names:
        print(f"== {name}", flush=True)
        work = folder / name
        work.mkdir(exist_ok=True)
        words = BENCHMARKS[name].command(work, corpus, arguments.quick)
        outcome = run(words, folder / f"{name}.txt", folder / f"{name}.log")
        print("\n".join(outcome.lines), flush=True)
        record(folder / RESULTS_NAME, name, outcome)
        if outcome.exit_code:
            failed.append(name)
            print(f"failed with {outcome.exit_code}: see {folder / name}.log", flush=True)
    print(f"{len(names) - len(failed)} of {len(names)} benchmarks ran; {folder / RESULTS_NAME}")
    return 1 if failed else 0


def has_gpu() -> bool:
    """Whether an NVIDIA or AMD driver is loaded."""
    return Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()


def _needs_corpus(benchmark: Benchmark) -> bool:
    return CORPUS in benchmark.arguments


def corpus_of(folder: Path) -> list[Path]:
    """The files of the benchmark corpus, which `benchmarks.data_corpus` makes in `folder`."""
    target = folder / "corpus"
    done = subprocess.run([sys.executable, "-m", "benchmarks.data_corpus", str(target)], cwd=ROOT)
    files = sorted(target.glob("*.jsonl"))
    if done.returncode or not files:
        raise UserError(f"{target}: the benchmark corpus could not be made (see above)")
    return files


def run(words: Sequence[str], output: Path, log: Path) -> Outcome:
    """Runs a command; its output goes to two files, `output` and `log`."""
    started = time.monotonic()
    with output.open("wb") as out, log.open("wb") as err:
        process = subprocess.Popen(words, cwd=ROOT, stdout=out, stderr=err)
        try:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            if process.returncode is None:
                process.terminate()
    lines = results_in(output.read_text(errors="replace").splitlines())
    return Outcome(
        command=[Path(words[0]).name, *words[1:]],
        exit_code=process.returncode,
        wall_s=time.monotonic() - started,
        cpu_s=usage.ru_utime + usage.ru_stime,
        lines=lines,
        tables=tables_in(lines),
    )


def results_in(lines: Iterable[str]) -> list[str]:
    """`lines` without what libraries print while they start."""
    return [line.rstrip() for line in lines if not CHATTER.search(line)]


def tables_in(lines: Iterable[str]) -> list[list[dict[str, str]]]:
    """The Markdown tables among `lines`, each as its rows by column."""
    tables: list[list[dict[str, str]]] = []
    header: list[str] | None = None
    for line in lines:
        if not line.startswith("|"):
            header = None
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if header is None:
            header = cells
            tables.append([])
        elif not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
            tables[-1].append(dict(zip(header, cells, strict=False)))
    return tables


def record(path: Path, name: str, outcome: Outcome) -> None:
    """Adds an outcome to the results, whose earlier one of that name it replaces."""
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    benchmarks = {**results.get("benchmarks", {}), name: asdict(outcome)}
    tree = {"versions": versions(), "processors": os.cpu_count(), "benchmarks": benchmarks}
    write_atomic(path, json.dumps(tree, indent=1) + "\n")


if __name__ == "__main__":
    command.run(main)
