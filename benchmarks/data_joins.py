"""The joins of deduplication alone, on synthetic signatures: time, memory and disk per document.

``python -m benchmarks.data_joins [--documents 5000000] [--join-documents 10000000]``

Writes signatures and hashes like the stage ``signatures``, a fifth of the documents being copies
with some bytes changed, and runs the stages ``keys`` to ``pairs``, then ``all_clusters``
and ``verdicts``, each of the two in its own process. No text is involved.
"""

import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs import command
from data_prep.dedup.candidates import all_bands, first_pairs_stage, pairs_stage
from data_prep.dedup.cluster_stages import all_clusters_stage, clusters_stage
from data_prep.dedup.config import DedupConfig
from data_prep.dedup.keys import keys_stage
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.minhash import NUM_BANDS
from data_prep.dedup.signatures import FileRun
from data_prep.dedup.verdicts import verdicts_stage
from data_prep.documents.files import DocumentFile
from data_prep.engine.engine import SerialEngine
from data_prep.engine.execution import run_stage
from data_prep.engine.progress import ProgressReporter
from data_prep.engine.stage import PartT, Stage, StageResult

_PART_DOCUMENTS = 100_000
_COPIES = 0.2
DOCUMENT_BYTES = 1000
_DOCUMENTS = (1_250_000, 2_500_000, 5_000_000)


def main() -> None:
    """Writes, joins, prints."""
    parser = command.plain_parser(__doc__ or "")
    parser.add_argument(
        "--documents", type=int, nargs="+", default=_DOCUMENTS, help="sizes to measure"
    )
    parser.add_argument("--join-documents", type=int, help="documents of one range of keys")
    parser.add_argument(
        "--equal", type=float, default=0.0, help="share of the documents that are all equal"
    )
    parser.add_argument("--work", type=Path, help="work folder; a temporary one by default")
    arguments = parser.parse_args()
    head = (
        "documents",
        "pairs CPU s",
        "peak MB",
        "verdicts CPU s",
        "peak MB",
        "bytes per document",
    )
    print("".join(f"{title:>18}" for title in head))
    for documents in arguments.documents:
        with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
            signed = write_signatures(Path(folder), documents, arguments.equal)
            cells: list[float] = [documents]
            for stages in (
                ("keys", "first_pairs", "clusters", "pairs"),
                ("all_clusters", "verdicts"),
            ):
                cells += measured(stages, signed, Path(folder), arguments.join_documents)
            size = sum(path.stat().st_size for path in Path(folder).rglob("*.npy"))
            cells.append(size / documents)
            print("".join(f"{cell:>18,.1f}" for cell in cells), flush=True)


def write_signatures(folder: Path, documents: int, equal: float) -> StageResult[FileRun]:
    """The result of a signatures stage with `documents` documents, of which `equal` are equal."""
    target = folder / "signatures"
    target.mkdir()
    parts, records = [], []
    generate = np.random.default_rng(0)
    previous: Any = None
    for first in range(0, documents, _PART_DOCUMENTS):
        count = min(_PART_DOCUMENTS, documents - first)
        name = f"made-{first // _PART_DOCUMENTS:06d}"
        signatures = generate.integers(0, 1 << 64, (count, NUM_BANDS), dtype=np.uint64)
        hashes = generate.integers(0, 1 << 64, (2, count), dtype=np.uint64)
        if previous is not None:  # copies of its documents, a byte of every other band changed
            copies = np.flatnonzero(generate.random(count) < _COPIES)
            signatures[copies] = previous[copies % len(previous)]
            changes = generate.integers(1, 256, (len(copies), 7), dtype=np.uint64)
            signatures[copies[:, None], np.arange(0, NUM_BANDS, 2)] ^= changes
        previous = signatures.copy()
        is_equal = generate.random(count) < equal
        signatures[is_equal], hashes[:, is_equal] = 1, 1
        np.save(target / f"{name}.signatures.npy", signatures)
        np.save(target / f"{name}.hashes.npy", hashes)
        np.save(target / f"{name}.bytes.npy", np.full(count, DOCUMENT_BYTES, np.uint32))
        size = DOCUMENT_BYTES * count
        file = DocumentFile(
            name=name,
            num_bytes=size,
            source="made",
            num_documents=count,
            first=first,
            content=name,
        )
        parts.append(FileRun(name=name, num_bytes=size, source="made", files=[file]))
        records.append({"documents": count, "outputs": {name: {"xxh3_128": name}}})
    return StageResult(folder=target, parts=parts, records=records, content_fingerprint="made")


def measured(
    stages: Sequence[str], signed: StageResult[FileRun], folder: Path, join: int | None
) -> list[float]:
    """[CPU seconds, peak MB] of some stages in a new process; earlier ones are finished."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(stages, signed, folder, join, sender))
    process.start()
    result: list[float] = json.loads(receiver.recv())
    process.join()
    return result


def _run(
    stages: Sequence[str], signed: StageResult[FileRun], folder: Path, join: int | None, sender: Any
) -> None:
    limits = DedupLimits() if join is None else DedupLimits(join_documents=join)
    config = DedupConfig()
    seconds = 0.0

    def run(stage: Stage[PartT]) -> StageResult[PartT]:
        nonlocal seconds
        start = time.process_time()
        result = run_stage(stage, folder, SerialEngine(), ProgressReporter())
        seconds += time.process_time() - start if stage.name in stages else 0
        return result

    keys = run(keys_stage(signed, all_bands(config)))
    first = run(first_pairs_stage(signed, keys, config, limits))
    joined = run(clusters_stage(signed, first, limits))
    pairs = run(pairs_stage(signed, keys, joined, config, limits))
    if "verdicts" in stages:
        whole = run(all_clusters_stage(signed, joined, pairs, limits))
        run(verdicts_stage(signed, joined, whole, ["made"], limits))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    sender.send(json.dumps([seconds, peak]))


if __name__ == "__main__":
    command.run(main)
