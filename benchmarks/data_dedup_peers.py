"""Near-duplicate detection of other tools, run in their own interpreters by data_dedup.py.

``python data_dedup_peers.py NAME INPUT.jsonl OUTPUT.json`` writes each document's cluster label.
All use word 5-grams and 112 hashes in 14 bands of 8, one worker.
"""

import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Labels = list[int]
"""The lowest document number of each document's cluster."""
Work = Callable[[Path], Labels]

WORD = re.compile(r"[a-z0-9\x80-\U0010ffff]+")


def main() -> None:
    """Runs the named tool."""
    name, source, output = sys.argv[1:]
    load: Callable[[], Work] = {"datasketch": datasketch, "daft": daft, "datatrove": datatrove}[
        name
    ]
    work = load()
    startup = time.process_time()
    labels = work(Path(source))
    Path(output).write_text(json.dumps({"startup_cpu_s": startup, "labels": labels}))


def documents(path: Path) -> list[tuple[int, str]]:
    """(id, text) of each line."""
    with open(path) as file:
        return [(record["id"], record["text"]) for record in map(json.loads, file)]


def labels_of(pairs: Iterable[tuple[int, int]], count: int) -> Labels:
    """The lowest number of each document's cluster."""
    parent = list(range(count))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for a, b in pairs:
        a, b = sorted((root(a), root(b)))
        parent[b] = a
    return [root(number) for number in range(count)]


def datasketch() -> Work:
    """datasketch: MinHash and MinHashLSH."""
    from datasketch import MinHash, MinHashLSH  # type: ignore[import-not-found]

    def work(path: Path) -> Labels:
        texts = documents(path)
        index = MinHashLSH(num_perm=112, params=(14, 8))
        pairs = []
        for number, text in texts:
            words = WORD.findall(text.lower())
            grams = {" ".join(words[k : k + 5]) for k in range(max(len(words) - 4, 1))}
            signature = MinHash(num_perm=112)
            signature.update_batch([gram.encode() for gram in grams])
            pairs += [(other, number) for other in index.query(signature)]
            index.insert(number, signature)
        return labels_of(pairs, len(texts))

    return work


def daft() -> Work:
    """Daft: its native minhash expression, bands joined by grouping."""
    import daft as tool  # type: ignore[import-not-found]
    from daft import col

    def work(path: Path) -> Labels:
        frame = tool.read_json(str(path))
        text = col("text").normalize(
            remove_punct=True, lowercase=True, nfd_unicode=False, white_space=True
        )
        frame = frame.select(
            col("id"),
            text.minhash(num_hashes=112, ngram_size=5, seed=1, hash_function="xxhash").alias("m"),
        )
        table = frame.to_pydict()
        buckets: dict[tuple[Any, ...], list[int]] = {}
        for number, hashes in zip(table["id"], table["m"], strict=True):
            for band in range(14):
                key = (band, *hashes[band * 8 : band * 8 + 8])
                buckets.setdefault(key, []).append(number)
        pairs = [(group[0], other) for group in buckets.values() for other in group[1:]]
        return labels_of(pairs, len(table["id"]))

    return work


def datatrove() -> Work:
    """datatrove: its four steps on the local executor."""
    from datatrove.executor import LocalPipelineExecutor  # type: ignore[import-not-found]
    from datatrove.pipeline.dedup import (  # type: ignore[import-not-found]
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig  # type: ignore[import-not-found]
    from datatrove.pipeline.readers import JsonlReader  # type: ignore[import-not-found]
    from datatrove.pipeline.writers import JsonlWriter  # type: ignore[import-not-found]
    from datatrove.utils.hashing import HashConfig  # type: ignore[import-not-found]

    def work(path: Path) -> Labels:
        folder = tempfile.mkdtemp()
        config = MinhashConfig(
            hash_config=HashConfig(precision=64), num_buckets=14, hashes_per_bucket=8, n_grams=5
        )
        reader = JsonlReader(str(path.parent), glob_pattern=path.name)
        steps = [
            [reader, MinhashDedupSignature(f"{folder}/signatures", config=config, language="en")],
            [MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config)],
            [MinhashDedupCluster(f"{folder}/buckets", f"{folder}/remove", config=config)],
            [
                reader,
                MinhashDedupFilter(f"{folder}/remove", JsonlWriter(f"{folder}/removed")),
                JsonlWriter(f"{folder}/kept", compression=None),
            ],
        ]
        for number, pipeline in enumerate(steps):
            tasks = 14 if number == 1 else 1
            LocalPipelineExecutor(
                pipeline, tasks=tasks, workers=1, logging_dir=f"{folder}/logs{number}"
            ).run()
        kept: set[int] = set()
        for file in Path(folder, "kept").glob("*"):
            # Not splitlines(): the texts contain characters that Python takes for line ends.
            lines = filter(None, file.read_text().split("\n"))
            kept |= {int(json.loads(line).get("id", 0)) for line in lines}
        count = len(documents(path))
        # It reports which documents are dropped, not their clusters: recall follows from the kept.
        return [number if number in kept else -1 for number in range(count)]

    return work


if __name__ == "__main__":
    main()
