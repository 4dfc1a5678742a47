"""Exact and near duplicates across all sources: signatures, pairs, clusters, verdicts.

Documents are numbered in the order of the sources in the config, of the files, and in the files.
The lowest number of a cluster stays, so the verdict does not depend on parts or workers. The state
on disk is 128 bytes a document: 112 of signature and 16 of hash. Joins sort one range of keys at a
time and read signatures by offset; no stage holds all documents.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data_prep.atomic import open_atomic
from data_prep.config import DedupConfig
from data_prep.ingest import read_texts
from data_prep.minhash import NUM_BANDS, band_keys, signatures, similarity
from data_prep.stages import Part, Record, Stage, StageResult
from data_prep.text_batch import I64, U64, TextBatch

SIGNATURES, PAIRS, VERDICTS = "signatures", "pairs", "verdicts"
KEEP, EXACT, NEAR = 0, 1, 2
"""Verdicts on a document."""
_DOCUMENTS_A_JOIN = 16_000_000
_MAX_GROUP_ALL_PAIRS, _MAX_ROUNDS = 32, 64
_PAIRS_AT_ONCE, _PAIRS_HELD = 1 << 16, 1 << 22
_EXAMPLE_PAIRS, _MAX_OPEN_FILES = 30, 500


def signatures_stage(ingest: StageResult, config: DedupConfig) -> Stage:
    """Part for part of the documents: signatures, hashes and lengths."""
    ngram_words = config.near.ngram_words if config.near else None
    return Stage(
        SIGNATURES,
        1,
        {"ngram_words": ngram_words},
        {"ingest": ingest.content_fingerprint},
        [Part(p.name, {}, r["bytes"]) for p, r in zip(ingest.parts, ingest.records, strict=True)],
        signatures_part,
        {"documents": str(ingest.folder)},
    )


def signatures_part(
    folder: Path, part: Part, settings: Mapping[str, Any]
) -> tuple[Record, Sequence[str]]:
    """Writes PART.signatures.npy [14, D], PART.hashes.npy [2, D], PART.bytes.npy [D]."""
    ngram_words = settings["ngram_words"]
    signed: list[U64] = [np.empty((NUM_BANDS, 0), dtype=np.uint64)]
    hashed: list[U64] = [np.empty((2, 0), dtype=np.uint64)]
    lengths: list[I64] = [np.empty(0, dtype=np.int64)]
    for _, texts in read_texts(Path(settings["documents"]) / f"{part.name}.parquet"):
        batch = TextBatch(texts)
        hashes = word_sequence_hashes(batch)
        hashed.append(hashes)
        lengths.append(batch.lengths)
        if ngram_words is not None:
            signed.append(signatures(batch, ngram_words, fallback=hashes[0]))
    arrays = {"hashes": np.concatenate(hashed, axis=1), "bytes": np.concatenate(lengths)}
    if ngram_words is not None:
        arrays["signatures"] = np.concatenate(signed, axis=1)
    for name, array in arrays.items():
        save_array(folder / f"{part.name}.{name}.npy", array)
    names = [f"{part.name}.{name}.npy" for name in arrays]
    return {"documents": len(arrays["bytes"])}, names


def word_sequence_hashes(batch: TextBatch) -> U64:
    """Two 64-bit hashes of each text's words in their order: [2, D]; the key of exact duplicates.

    Case and punctuation do not count.
    """
    content = batch.word_hashes.tobytes()
    bounds = (batch.first_words * 8).tolist()
    digests = b"".join(
        [xxhash.xxh3_128_digest(content[start:end]) for start, end in pairwise(bounds)]
    )
    return np.ascontiguousarray(np.frombuffer(digests, dtype="<u8").reshape(-1, 2).T)


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Writes a .npy file, whole or not at all."""
    with open_atomic(path) as file:
        np.save(file, array)


def pairs_stage(signed: StageResult, config: DedupConfig) -> Stage:
    """One part for exact duplicates, and one a band and range of keys for near ones."""
    documents = signed.total("documents")
    num_ranges = -(-documents // _DOCUMENTS_A_JOIN) or 1
    parts = []
    if config.exact:
        parts += [
            Part(f"exact-{r:04d}", {"range": r, "ranges": num_ranges}, documents * 16 // num_ranges)
            for r in range(num_ranges)
        ]
    if config.near:
        parts += [
            Part(
                f"band-{band:02d}-{r:04d}",
                {"band": band, "range": r, "ranges": num_ranges},
                documents * 8 // num_ranges,
            )
            for band in range(NUM_BANDS * config.near.groupings)
            for r in range(num_ranges)
        ]
    near = config.near.model_dump(mode="json") if config.near else None
    return Stage(
        PAIRS,
        1,
        {"exact": config.exact, "near": near},
        {"signatures": signed.content_fingerprint},
        parts,
        pairs_part,
        {"signatures": str(signed.folder), "signed": _signed_parts(signed)},
    )


def _signed_parts(signed: StageResult) -> list[tuple[str, int]]:
    return [(p.name, r["documents"]) for p, r in zip(signed.parts, signed.records, strict=True)]


def pairs_part(
    folder: Path, part: Part, settings: Mapping[str, Any]
) -> tuple[Record, Sequence[str]]:
    """Writes PART.pairs.npy [2, P]: numbers of an earlier document and of one that equals it."""
    store = SignatureStore(Path(settings["signatures"]), settings["signed"])
    share = part.arguments["range"], part.arguments["ranges"]
    if "band" in part.arguments:
        band = part.arguments["band"]
        keys, numbers = store.keys_in_range("signatures", lambda s: band_keys(s, band), *share)
        pairs, compared = near_pairs(
            keys, numbers, store.signatures_of, settings["near"]["min_similarity"]
        )
    else:
        keys, numbers = store.keys_in_range("hashes", lambda hashes: hashes[0], *share)
        pairs = exact_pairs(keys, store.second_hashes_of(numbers), numbers)
        compared = {"candidates": pairs.shape[1], "uncompared": 0}
    save_array(folder / f"{part.name}.pairs.npy", pairs)
    return {**compared, "pairs": pairs.shape[1]}, [f"{part.name}.pairs.npy"]


class SignatureStore:
    """The signatures and hashes of all documents, by document number, in the parts' files."""

    def __init__(self, folder: Path, parts: Sequence[tuple[str, int]]) -> None:
        self._folder = folder
        self._parts = [(name, count) for name, count in parts if count]
        counts = [count for _, count in self._parts]
        self._first = np.append(0, np.cumsum(counts, dtype=np.int64))
        self._open: dict[tuple[str, int], U64] = {}

    def keys_in_range(
        self, kind: str, keys_in: Callable[[U64], U64], number: int, of: int
    ) -> tuple[U64, I64]:
        """The keys of all documents that lie in the `number`-th of `of` equal ranges of 64-bit
        numbers, and the numbers of their documents."""
        low = number * (1 << 64) // of
        high = (number + 1) * (1 << 64) // of - 1
        keys, numbers = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for part, first in enumerate(self._first[:-1]):
            column = keys_in(self._array(kind, part))
            if of == 1:
                inside = np.arange(len(column))
            else:
                inside = np.flatnonzero((column >= np.uint64(low)) & (column <= np.uint64(high)))
            keys.append(column[inside])
            numbers.append(inside + first)
        return np.concatenate(keys), np.concatenate(numbers)

    def signatures_of(self, numbers: I64) -> U64:
        """The signatures of the documents `numbers`: [14, n]."""
        return self._columns("signatures", numbers, NUM_BANDS)

    def second_hashes_of(self, numbers: I64) -> U64:
        """The second hash of the documents `numbers`: [n]."""
        hashes: U64 = self._columns("hashes", numbers, 2)[1]
        return hashes

    def _columns(self, kind: str, numbers: I64, rows: int) -> U64:
        result = np.empty((rows, len(numbers)), dtype=np.uint64)
        part_of = np.searchsorted(self._first, numbers, side="right") - 1
        order = np.argsort(part_of, kind="stable")
        bounds = np.searchsorted(part_of[order], np.arange(len(self._parts) + 1))
        for part, (begin, end) in enumerate(pairwise(bounds)):
            if begin < end:
                chosen = order[begin:end]
                result[:, chosen] = self._array(kind, part)[:, numbers[chosen] - self._first[part]]
        return result

    def _array(self, kind: str, part: int) -> U64:
        if (kind, part) not in self._open:
            if len(self._open) >= _MAX_OPEN_FILES:
                del self._open[next(iter(self._open))]
            path = self._folder / f"{self._parts[part][0]}.{kind}.npy"
            self._open[kind, part] = np.asarray(np.load(path, mmap_mode="r"))
        return self._open[kind, part]


def exact_pairs(keys: U64, second_keys: U64, numbers: I64) -> I64:
    """(first document, other document) of each set of equal 128-bit keys: [2, P]."""
    order = np.lexsort((numbers, second_keys, keys))
    keys, second_keys, numbers = keys[order], second_keys[order], numbers[order]
    is_first = np.ones(len(keys), dtype=bool)
    is_first[1:] = (keys[1:] != keys[:-1]) | (second_keys[1:] != second_keys[:-1])
    first = numbers[is_first][np.cumsum(is_first) - 1] if len(numbers) else numbers
    return np.stack([first[~is_first], numbers[~is_first]])


def near_pairs(
    keys: U64,
    numbers: I64,
    signatures_of: Callable[[I64], U64],
    min_similarity: float,
) -> tuple[I64, dict[str, int]]:
    """Pairs (earlier, later) with equal keys and similar signatures: [2, P], and what was compared.

    Within a set of up to 32 documents with equal keys all pairs are compared. In a larger set all
    are compared with the first, the rest with the first of the rest, and so on: as nearly all of a
    large set resemble its first, that is linear in its size. What is left after 64 rounds is
    counted as ``uncompared``.
    """
    order = np.lexsort((numbers, keys))
    keys, numbers = keys[order], numbers[order]
    begins = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if len(keys) else order
    sizes = np.diff(np.append(begins, len(keys)))
    is_large = np.repeat(sizes > _MAX_GROUP_ALL_PAIRS, sizes)
    found: list[I64] = [np.empty((2, 0), dtype=np.int64)]
    candidates = 0
    for left, right in _pairs_in_small_sets(keys, numbers, np.flatnonzero(~is_large)):
        candidates += len(left)
        similar = _are_similar(left, right, signatures_of, min_similarity)
        found.append(np.stack([left[similar], right[similar]]))
    rest = np.flatnonzero(is_large)
    for _ in range(_MAX_ROUNDS):
        if len(rest) < 2:
            break
        is_first = np.append(True, keys[rest[1:]] != keys[rest[:-1]])
        first = rest[is_first][np.cumsum(is_first) - 1]
        left, right = numbers[first[~is_first]], numbers[rest[~is_first]]
        candidates += len(left)
        similar = _are_similar(left, right, signatures_of, min_similarity)
        found.append(np.stack([left[similar], right[similar]]))
        rest = rest[~is_first][~similar]
    pairs = np.concatenate(found, axis=1)
    pairs = pairs[:, np.lexsort((pairs[1], pairs[0]))]
    return pairs, {"candidates": candidates, "uncompared": len(rest)}


def _pairs_in_small_sets(keys: U64, numbers: I64, small: I64) -> Iterator[tuple[I64, I64]]:
    """(earlier, later) of all pairs with equal keys at the places `small`, in runs of a few
    million."""
    held: list[I64] = []
    for distance in range(1, _MAX_GROUP_ALL_PAIRS):
        at = small[: len(small) - distance]
        at = at[keys[at] == keys[small[distance:]]]
        if not len(at):
            break
        held.append(np.stack([numbers[at], numbers[at + distance]]))
        if sum(pairs.shape[1] for pairs in held) > _PAIRS_HELD:
            left, right = np.concatenate(held, axis=1)
            yield left, right
            held = []
    if held:
        left, right = np.concatenate(held, axis=1)
        yield left, right


def _are_similar(
    left: I64, right: I64, signatures_of: Callable[[I64], U64], min_similarity: float
) -> npt.NDArray[np.bool_]:
    result = np.empty(len(left), dtype=bool)
    for at in range(0, len(left), _PAIRS_AT_ONCE):
        chunk = slice(at, at + _PAIRS_AT_ONCE)
        estimate = similarity(signatures_of(left[chunk]), signatures_of(right[chunk]))
        result[chunk] = estimate >= min_similarity
    return result


def verdicts_stage(signed: StageResult, pairs: StageResult, sources: Sequence[str]) -> Stage:
    """The one part that joins pairs to clusters and says of every document whether it stays."""
    return Stage(
        VERDICTS,
        1,
        {"sources": list(sources)},
        {"pairs": pairs.content_fingerprint},
        [Part("verdicts", {})],
        verdicts_part,
        {
            "pairs": [
                (str(pairs.folder / f"{part.name}.pairs.npy"), part.name.startswith("exact"))
                for part in pairs.parts
            ],
            "signatures": str(signed.folder),
            "signed": _signed_parts(signed),
        },
    )


def verdicts_part(
    folder: Path, part: Part, settings: Mapping[str, Any]
) -> tuple[Record, Sequence[str]]:
    """Writes verdicts.codes.npy [documents]: KEEP, EXACT or NEAR; statistics in the record."""
    parts = settings["signed"]
    lengths = np.concatenate(
        [np.load(Path(settings["signatures"]) / f"{name}.bytes.npy") for name, _ in parts]
    )
    source_of_part = [settings["sources"].index(name.rpartition("-")[0]) for name, _ in parts]
    source_of = np.repeat(source_of_part, [count for _, count in parts])
    exact = [np.load(path) for path, is_exact in settings["pairs"] if is_exact]
    near = [np.load(path) for path, is_exact in settings["pairs"] if not is_exact]
    edges = np.concatenate([np.empty((2, 0), np.int64), *exact, *near], axis=1)
    dropped, stays = clusters(edges)
    codes = np.zeros(len(lengths), dtype=np.uint8)
    codes[dropped] = NEAR
    for pairs in exact:
        codes[pairs[1]] = EXACT
    save_array(folder / "verdicts.codes.npy", codes)
    return _statistics(codes, lengths, source_of, settings["sources"], dropped, stays), [
        "verdicts.codes.npy"
    ]


def clusters(edges: I64) -> tuple[I64, I64]:
    """Of every connected set of documents, those that go and, for each, the one that stays.

    `edges` is [2, E]; gives [n], [n], ascending. The lowest number of a set stays.
    """
    nodes, flat = np.unique(edges, return_inverse=True)
    left, right = flat.reshape(edges.shape)
    graph = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(len(nodes),) * 2)
    _, label = connected_components(graph, directed=False)
    lowest = np.full(len(nodes), np.iinfo(np.int64).max)
    np.minimum.at(lowest, label, nodes)
    stays = lowest[label] if len(nodes) else nodes
    goes = nodes != stays
    return nodes[goes], stays[goes]


def _statistics(
    codes: npt.NDArray[np.uint8],
    lengths: I64,
    source_of: npt.NDArray[np.int64],
    sources: Sequence[str],
    dropped: I64,
    stays: I64,
) -> Record:
    by_source: dict[str, dict[str, int]] = {}
    for number, name in enumerate(sources):
        counts: dict[str, int] = {}
        for code, word in ((KEEP, "kept"), (EXACT, "exact"), (NEAR, "near")):
            chosen = (source_of == number) & (codes == code)
            counts[f"{word}_documents"] = int(chosen.sum())
            counts[f"{word}_bytes"] = int(lengths[chosen].sum())
        by_source[name] = counts
    _, sizes = np.unique(stays, return_counts=True)
    size, count = np.unique(sizes + 1, return_counts=True)
    matrix = np.zeros((len(sources),) * 2, dtype=np.int64)
    np.add.at(matrix, (source_of[stays], source_of[dropped]), 1)
    near = np.flatnonzero(codes[dropped] == NEAR)
    chosen = near[np.linspace(0, len(near) - 1, min(len(near), _EXAMPLE_PAIRS)).astype(int)]
    return {
        "sources": by_source,
        "cluster_sizes": {str(s): int(c) for s, c in zip(size, count, strict=True)},
        "stays_by_goes": matrix.tolist(),
        "near_examples": np.stack([stays[chosen], dropped[chosen]], axis=1).tolist(),
    }
