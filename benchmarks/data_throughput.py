"""Throughput of data preparation: MB per CPU second of each stage, and how time grows with size.

``python -m benchmarks.data_throughput CORPUS.jsonl ... [--scaling [TIMES ...]] [--work FOLDER]``

Prepares shards from JSON lines with the default filters, exact and near-duplicate removal, and a
tokenizer trained beforehand. A run is one process on one core, so that its CPU time and memory can
be measured; ``--repeat`` reports the best of several. ``--scaling`` uses half of the documents
once, twice and four times (or as often as the given numbers say), as more files of the same
sources. In each copy, words of four letters and more are replaced by words of the same length and
about the same frequency, so that copies do not resemble each other, but each has the same
duplicates within itself and needs the same work. The reference tokenizer is measured on a sample.
"""

import ctypes
import gc
import json
import multiprocessing
import re
import resource
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from configs import command
from configs.load import validate
from data_prep.checks import check
from data_prep.config import DataConfig
from data_prep.dataset.tokenizer import load_tokenizer
from data_prep.engine.costs import resident_bytes
from data_prep.run import prepare
from data_prep.tokenization.train import train_tokenizer

VOCABULARY = 50_265
_WORD = re.compile("[a-z]{4,}")
PACKING = ("encode", "layout", "rows")


def main() -> None:
    """Runs and prints tables."""
    parser = command.plain_parser(__doc__ or "")
    parser.add_argument("corpus", nargs="+", type=Path, help="JSON lines with a key text")
    parser.add_argument(
        "--scaling", nargs="*", type=int, metavar="TIMES", help="repeat the corpus so often"
    )
    parser.add_argument("--repeat", type=int, default=1, help="runs; the best one is reported")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY, help="tokens")
    parser.add_argument("--part-mb", type=float, default=16, help="size of a part in MB")
    parser.add_argument("--work", type=Path, help="work folder; a temporary one by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        work = Path(folder)
        tokenizer = work / "tokenizer.json"
        train_tokenizer(sample(arguments.corpus, 30e6), arguments.vocabulary).save(str(tokenizer))
        sizes = {0: arguments.corpus}
        if arguments.scaling is not None:
            times = arguments.scaling or [1, 2, 4]
            half = [thinned(path, 2, work / "raw") for path in arguments.corpus]
            exchanges = word_exchanges(half, max(times))
            copies = [half, *([exchanged(p, k, exchanges) for p in half] for k in exchanges)]
            sizes |= {n: [path for copy in copies[:n] for path in copy] for n in times}
        best = best_runs(arguments.repeat, sizes, tokenizer, work, arguments.part_mb)
        print_run(best.pop(0))
        if best:
            print_scaling([best[n] for n in sorted(best)])
        print_reference(tokenizer, list(sample(arguments.corpus, 4e6)))


def best_runs(
    repeat: int,
    sizes: dict[int, Sequence[Path]],
    tokenizer: Path,
    work: Path,
    part_mb: float,
) -> dict[int, dict[str, Any]]:
    """For each set of files, the run with the least CPU time; the sets take turns, so that other
    load on the machine affects them alike."""
    runs: dict[int, list[dict[str, Any]]] = {name: [] for name in sizes}
    for _ in range(repeat):
        for name, files in sizes.items():
            runs[name].append(measure(config_of(files, tokenizer, work / "run", part_mb), files))
            shutil.rmtree(work / "run")
    return {name: min(of, key=lambda run: float(run["total"])) for name, of in runs.items()}


def sample(paths: Sequence[Path], num_bytes: float) -> Any:
    """About `num_bytes` of texts, the same amount from each file."""
    for path in paths:
        taken = 0
        with open(path, "rb") as file:
            for line in file:
                text = json.loads(line)["text"]
                yield text
                taken += len(text)
                if taken > num_bytes / len(paths):
                    break


def thinned(path: Path, every: int, folder: Path) -> Path:
    """A file of every n-th line of `path`."""
    folder.mkdir(exist_ok=True)
    target = folder / path.name
    with open(path, "rb") as source, open(target, "wb") as file:
        file.writelines(line for number, line in enumerate(source) if number % every == 0)
    return target


def word_exchanges(paths: Sequence[Path], num_copies: int) -> dict[int, dict[str, str]]:
    """For each copy but the first, what every word of four letters and more becomes: the word of
    the same length that is one place rarer, two places, and so on."""
    counts = Counter(
        word for path in paths for text in texts_in(path) for word in _WORD.findall(text)
    )
    by_length: dict[int, list[str]] = {}
    for word, _ in counts.most_common():
        by_length.setdefault(len(word), []).append(word)
    return {
        copy: {
            word: ranked[(place + copy) % len(ranked)]
            for ranked in by_length.values()
            for place, word in enumerate(ranked)
        }
        for copy in range(1, num_copies)
    }


def texts_in(path: Path) -> Iterator[str]:
    """The texts of a file."""
    with open(path, "rb") as file:
        for line in file:
            yield orjson.loads(line)["text"]


def exchanged(path: Path, copy: int, exchanges: dict[int, dict[str, str]]) -> Path:
    """A file of the same texts with other words."""
    other = exchanges[copy].get
    target = path.parent / str(copy) / path.name
    target.parent.mkdir(exist_ok=True)
    with open(target, "wb") as file:
        for text in texts_in(path):
            words = _WORD.split(text)
            words[1:] = [
                piece
                for old, gap in zip(_WORD.findall(text), words[1:], strict=True)
                for piece in (other(old, old), gap)
            ]
            file.write(orjson.dumps({"text": "".join(words)}) + b"\n")
    return target


def config_of(files: Sequence[Path], tokenizer: Path, folder: Path, part_mb: float) -> DataConfig:
    """The default settings on `files`, in this process; those of one name are a source."""
    sources: dict[str, list[str]] = {}
    for path in files:
        sources.setdefault(path.stem, []).append(str(path))
    tree = {
        "output": str(folder / "rows"),
        "work": str(folder / "work"),
        "sources": {n: {"reader": {"type": "jsonl", "files": of}} for n, of in sources.items()},
        "tokenizer": {"type": "file", "path": str(tokenizer)},
        "part_mb": part_mb,
        "engine": {"type": "serial"},
    }
    return validate(tree, DataConfig, "benchmark")


def measure(config: DataConfig, files: Sequence[Path]) -> dict[str, Any]:
    """CPU seconds and peak memory by stage of a run in a new process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(config.model_dump(mode="json"), sender))
    process.start()
    result: dict[str, Any] = receiver.recv()
    process.join()
    result["bytes"] = sum(path.stat().st_size for path in files)
    report = json.loads((config.output / "report.json").read_text())
    result["kept_bytes"] = sum(s["kept_bytes"] for s in report["sources"].values())
    result["filtered_bytes"] = sum(s["filtered_bytes"] for s in report["sources"].values())
    result["documents"] = sum(s["read_documents"] for s in report["sources"].values())
    result["costs"] = report["costs"]
    peaks = {name: stage["peak_bytes"] for name, stage in report["costs"].items()}
    result["peaks"] = {"checks": result["checks_peak"], **peaks, "report": result["report_peak"]}
    return result


def _measured(tree: dict[str, Any], sender: Any) -> None:
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        start = time.process_time()
        yield
        seconds[stage] = time.process_time() - start

    config = validate(tree, DataConfig, "benchmark")
    start = time.process_time()
    warm_up()
    startup = time.process_time() - start
    start = time.process_time()
    findings = check(config, only_new=True)
    checks, checks_peak = time.process_time() - start, _peak_bytes()
    prepare(config, around_stage=timed, findings=findings)
    total = time.process_time() - start
    result = {"seconds": seconds, "total": total, "checks": checks, "startup": startup}
    result |= {"checks_peak": checks_peak, "report_peak": _peak_bytes()}
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is left is in use, or in pieces
    sender.send({**result, "left_bytes": resident_bytes()})


def _peak_bytes() -> int:
    """The most memory of this process since the last part of a stage, which resets it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def warm_up() -> None:
    """Runs a few documents with a small tokenizer of its own, so that libraries and compiled
    functions are loaded, once per process. What is done with the tokenizer is part of the run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "few.jsonl"
        text = __doc__ or ""  # English enough for the filters
        path.write_text(json.dumps({"text": text}) + "\n")
        tokenizer = Path(folder) / "tokenizer.json"
        train_tokenizer([text], 300).save(str(tokenizer))
        few = config_of([path], tokenizer, Path(folder), 1)
        prepare(few)
        report = json.loads((few.output / "report.json").read_text())
        assert report["sources"]["few"]["kept_documents"] == 1


def print_run(run: dict[str, Any]) -> None:
    """MB of input per CPU second of each stage."""
    print(f"\n{run['bytes'] / 1e6:,.0f} MB of JSON lines, {run['kept_bytes'] / 1e6:,.0f} MB kept")
    print(f"{'stage':<24}{'CPU s':>9}{'of MB':>9}{'MB/CPU s':>11}")
    sizes = {"ingest": run["bytes"], "signatures": run["filtered_bytes"]}
    dedup = (
        *("signatures", "keys", "first_pairs", "clusters", "pairs", "all_clusters", "verdicts"),
    )
    rows = [(name, seconds, sizes.get(name)) for name, seconds in run["seconds"].items()]
    rows += [
        ("near + exact dedup", sum(run["seconds"][n] for n in dedup), run["filtered_bytes"]),
        ("tokenize, pack, write", sum(run["seconds"][n] for n in PACKING), run["kept_bytes"]),
        ("all", run["total"], run["bytes"]),
    ]
    for name, seconds, size in rows:
        speed = f"{size / 1e6:>9.1f}{size / 1e6 / seconds:>11.1f}" if size else ""
        print(f"{name:<24}{seconds:>9.2f}{speed}")
    peak = max(run["peaks"].values()) / 1e6
    print(f"start-up, once per process: {run['startup']:.1f} s; peak {peak:,.0f} MB")


def print_scaling(runs: Sequence[dict[str, Any]]) -> None:
    """CPU time, memory, files and bytes against size. What does not depend on it is apart: the
    checks before the work, and the stage that takes over the tokenizer and tries it."""
    titles: tuple[str, ...] = ("MB", "CPU s", "of it fixed", "rest per MB", "all per MB")
    print("\nCPU time; per MB, against the first\n" + "".join(f"{head:>16}" for head in titles))
    first = runs[0]
    for run in runs:
        rest = (run["total"] - fixed_seconds(run)) / run["bytes"]
        rest /= (first["total"] - fixed_seconds(first)) / first["bytes"]
        all_of_it = run["total"] / run["bytes"] / (first["total"] / first["bytes"])
        cells = f"{run['bytes'] / 1e6:>16.1f}{run['total']:>16.2f}{fixed_seconds(run):>16.2f}"
        print(f"{cells}{rest:>16.3f}{all_of_it:>16.3f}")
    heads = ("MB", "files opened", "KB read", "KB written")
    print("\nfor each document\n" + "".join(f"{head:>16}" for head in heads))
    for run in runs:
        costs = run["costs"]
        opens, read, written = (
            sum(stage[key] for stage in costs.values()) / run["documents"]
            for key in ("opens", "bytes_read", "bytes_written")
        )
        cells = f"{run['bytes'] / 1e6:>16.1f}{opens:>16.3f}{read / 1e3:>16.2f}"
        print(f"{cells}{written / 1e3:>16.2f}")
    print("\npeak MB of each stage; of all; and at the end, when freed memory was given back")
    for name in first["peaks"]:
        _print_megabytes(name, [run["peaks"][name] for run in runs])
    _print_megabytes("all", [max(run["peaks"].values()) for run in runs])
    _print_megabytes("given back", [run["left_bytes"] for run in runs])


def fixed_seconds(run: dict[str, Any]) -> float:
    """CPU seconds of a run that do not depend on the size of the corpus."""
    return float(run["checks"] + run["seconds"]["tokenizer"])


def _print_megabytes(name: str, sizes: Sequence[int]) -> None:
    print(f"{name:<24}" + "".join(f"{size / 1e6:>10,.0f}" for size in sizes))


def print_reference(path: Path, texts: list[str]) -> None:
    """The reference tokenizer's speed."""
    tokenizer = load_tokenizer(path)
    start = time.process_time()
    tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    seconds = time.process_time() - start
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"\ntokenizers alone, encode_batch_fast: {megabytes / seconds:.2f} MB/CPU s")


if __name__ == "__main__":
    command.run(main)
