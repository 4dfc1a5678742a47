"""Near-duplicate detection on planted duplicates: speed, recall, precision, and other tools'.

``python -m benchmarks.data_dedup CORPUS.jsonl ... [--mb 60] [--peer NAME=PYTHON ...]``

Copies a third of real documents with random edits (words, or characters in scripts without spaces,
replaced, dropped, inserted), so that the true Jaccard similarity of every planted pair is known.
Prints a table; the time of this system is the best of three runs. A peer runs in an interpreter
that has it installed: ``--peer daft=/path/to/python`` (PyPI: daft, datasketch, datatrove with
spacy, tokenizers, "xxhash<4" and orjson).
"""

import json
import random
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from configs import command
from data_prep.dedup.clusters import clusters
from data_prep.dedup.config import NearDedupConfig
from data_prep.dedup.joins import near_pairs
from data_prep.dedup.key_order import HIGHEST_KEY, key_order, recurring
from data_prep.dedup.minhash import NUM_BANDS, band_keys, signatures
from data_prep.dedup.signatures import word_sequence_hashes
from data_prep.text.batch import TextBatch

PEERS_FILE = Path(__file__).with_name("data_dedup_peers.py")
_BATCH_BYTES = 400_000


def main() -> None:
    """Plants duplicates, runs the tools, prints the table."""
    parser = command.plain_parser(__doc__ or "")
    parser.add_argument("corpus", nargs="+", type=Path, help="JSON lines with a key text")
    parser.add_argument("--mb", type=float, default=60, help="text to take, MB")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help="also measure this tool, in the Python that has it",
    )
    arguments = parser.parse_args()
    texts, truth = plant(read_texts(arguments.corpus, arguments.mb * 1e6))
    megabytes = sum(map(len, texts)) / 1e6
    alike = sum(value >= 0.8 for value in truth.values())
    print(f"{len(texts):,} documents, {megabytes:.1f} MB, {alike:,} planted pairs of >= .8")
    print(f"{'tool':<22}{'MB/CPU s':>10}{'CPU s':>9}{'recall':>9}{'precision':>11}")

    def show(name: str, seconds: float, labels: list[int]) -> None:
        recall, precision = quality(labels, truth, texts)
        speed = f"{megabytes / seconds:>10.1f}{seconds:>9.1f}"
        print(f"{name:<22}{speed}{recall:>9.4f}{precision:>11.4f}", flush=True)

    runs = [timed(lambda: own(texts)) for _ in range(3)]
    show("this system", *min(runs, key=lambda run: run[0]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "planted.jsonl"
        with open(path, "w") as file:
            file.writelines(
                json.dumps({"id": n, "text": text.decode()}) + "\n" for n, text in enumerate(texts)
            )
        for peer in arguments.peer:
            name, _, python = peer.partition("=")
            show(name, *run_peer(name, python, path))


def read_texts(paths: Sequence[Path], num_bytes: float) -> list[bytes]:
    """Different texts of 50 words and more: `num_bytes`, the same amount from each file."""
    texts: dict[bytes, None] = {}
    for path in paths:
        taken = 0
        with open(path, "rb") as file:
            for line in file:
                text = json.loads(line)["text"].encode()
                if 50 <= TextBatch([text]).word_counts[0] <= 20_000 and taken < num_bytes / len(
                    paths
                ):
                    texts[text] = None
                    taken += len(text)
    return list(texts)


def plant(texts: list[bytes], seed: int = 0) -> tuple[list[bytes], dict[tuple[int, int], float]]:
    """The texts with edited copies among them, and the similarity of each pair (text, copy).

    Texts that resemble an earlier one are left out first, so that there are no pairs but the
    planted ones.
    """
    generate = random.Random(seed)
    labels = own(texts)
    texts = [text for number, text in enumerate(texts) if labels[number] == number]
    result, origins = list(texts), []
    for number, text in enumerate(texts):
        if generate.random() < 1 / 3:
            result.append(edited(text, generate, generate.choice([0, 0.003, 0.01, 0.02, 0.03])))
            origins.append(number)
    truth = {}
    for copy, number in enumerate(origins, len(texts)):
        truth[number, copy] = jaccard(result[number], result[copy])
    order = list(range(len(result)))
    generate.shuffle(order)
    place = {old: new for new, old in enumerate(order)}
    shuffled = [result[old] for old in order]
    return shuffled, {
        (min(place[a], place[b]), max(place[a], place[b])): value for (a, b), value in truth.items()
    }


def edited(text: bytes, generate: random.Random, rate: float) -> bytes:
    """`text` with about `rate` of its words replaced, dropped or followed by another word; of its
    characters in scripts without spaces."""
    joint = b" " if has_spaces(text) else b""
    words = text.split(b" ") if joint else [character.encode() for character in text.decode()]
    for _ in range(int(rate * len(words)) + 1):
        at = generate.randrange(len(words))
        other = words[generate.randrange(len(words))]
        words[at] = generate.choice([other, b"", words[at] + joint + other])
    return joint.join(words)


def has_spaces(text: bytes) -> bool:
    """Whether most words of a text are between spaces."""
    batch = TextBatch([text])
    return bool(2 * batch.tokens.spaced_words[0] >= batch.word_counts[0])


def jaccard(left: bytes, right: bytes) -> float:
    """True similarity of the sets of 5-grams of words, of characters in scripts without spaces."""
    sets = [set(TextBatch([text]).token_ngrams(5)[0].tolist()) for text in (left, right)]
    return len(sets[0] & sets[1]) / max(len(sets[0] | sets[1]), 1)


def own(texts: Sequence[bytes]) -> list[int]:
    """The label of each text's cluster: its lowest number."""
    signed, hashes = [], []
    for start, end in batches(texts):
        batch = TextBatch(texts[start:end])
        keys = word_sequence_hashes(batch)
        hashes.append(keys)
        signed.append(signatures(batch, 5, keys[0]))
    all_signed = np.concatenate(signed)
    numbers, rules = np.arange(len(texts)), NearDedupConfig()
    pairs = []
    for band in range(NUM_BANDS * rules.groupings):
        keys = band_keys(all_signed, band)
        order = key_order(keys)
        whole = np.array([0, len(keys)])
        for places in recurring(keys[order], whole, 0, HIGHEST_KEY):
            again = order[places]
            found, _ = near_pairs(
                keys[again], numbers[again], lambda n: all_signed[n], rules.min_similarity
            )
            pairs.append(found)
    goes, stays = clusters(np.concatenate(pairs, axis=1), len(texts))
    labels = numbers.copy()
    labels[goes] = stays
    return [int(label) for label in labels]


def batches(texts: Sequence[bytes]) -> list[tuple[int, int]]:
    """[start, end) of batches of texts of about 400 KB."""
    sizes = np.cumsum([len(text) for text in texts]) // _BATCH_BYTES
    ends = [*np.flatnonzero(np.diff(sizes)) + 1, len(texts)]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def timed(work: Callable[[], list[int]]) -> tuple[float, list[int]]:
    """(CPU seconds, result)."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def run_peer(name: str, python: str, path: Path) -> tuple[float, list[int]]:
    """(CPU seconds of the work without imports, labels) of another tool."""
    output = path.with_suffix(f".{name}.json")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([python, str(PEERS_FILE), name, str(path), str(output)], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = json.loads(output.read_text())
    all_seconds = sum(after[k] - before[k] for k in (0, 1))
    return all_seconds - result["startup_cpu_s"], result["labels"]


def quality(
    labels: list[int], truth: dict[tuple[int, int], float], texts: Sequence[bytes]
) -> tuple[float, float]:
    """(share of the planted pairs of >= .8 that are joined, share of the joined documents that
    truly resemble, by >= .7, one of their cluster)."""
    alike = [pair for pair, value in truth.items() if value >= 0.8]
    if -1 in labels:  # a tool that reports only which documents are dropped
        recall = sum(-1 in (labels[a], labels[b]) for a, b in alike) / len(alike)
        resembling = {n for pair, value in truth.items() if value >= 0.7 for n in pair}
        gone = [number for number, label in enumerate(labels) if label == -1]
        return recall, sum(number in resembling for number in gone) / max(len(gone), 1)
    recall = sum(labels[a] == labels[b] for a, b in alike) / len(alike)
    members: dict[int, list[int]] = {}
    for number, label in enumerate(labels):
        members.setdefault(label, []).append(number)
    right = wrong = 0
    for group in members.values():
        for position, number in enumerate(group[1:], 1):
            earlier = group[:position]
            known = any(truth.get((min(o, number), max(o, number)), 0) >= 0.7 for o in earlier)
            if known or any(jaccard(texts[o], texts[number]) >= 0.7 for o in earlier[:50]):
                right += 1
            else:
                wrong += 1
    return recall, right / max(right + wrong, 1)


if __name__ == "__main__":
    command.run(main)
