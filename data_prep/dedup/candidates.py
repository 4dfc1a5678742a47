"""Exact and near duplicates across all sources: the stages that sign documents and find pairs.

Documents are numbered in the order of the sources in the config, of the files, and in the files.
The state on disk is 132 bytes a document: 112 of signature, 16 of hash and 4 of length. Joins sort
one range of keys at a time and read signatures by offset; no stage holds all documents.

A duplicate has equal keys in many bands, often in all. So equal documents and two bands come first
and are joined to clusters; the other bands write only what joins these clusters further.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dataset.atomic import save_array
from data_prep.dedup.clusters import fewest_pairs, number_type
from data_prep.dedup.config import DedupConfig
from data_prep.dedup.joins import exact_pairs, near_pairs
from data_prep.dedup.minhash import NUM_BANDS, band_keys
from data_prep.dedup.signature_store import SignatureStore
from data_prep.dedup.signatures import signed_parts
from data_prep.engine.stages import Part, Record, Stage, StageResult
from data_prep.text.batch import I64

FIRST_PAIRS, PAIRS = "first_pairs", "pairs"
_FIRST_BANDS = 2
LABELS = "clusters.labels.npy"
"""The clusters known after the first pairs: the first document of each one's cluster."""
_DOCUMENTS_A_JOIN = 10_000_000
"""A join takes about 60 bytes of memory a document, 100 where most have duplicates."""


def first_pairs_stage(signed: StageResult, config: DedupConfig) -> Stage:
    """Exact duplicates and the first bands: a part a range of keys of each."""
    keys = _bands(config)[:_FIRST_BANDS]
    if config.exact:
        keys.insert(0, ("exact", {}))
    return _pairs_stage(FIRST_PAIRS, signed, config, keys)


def pairs_stage(signed: StageResult, joined: StageResult, config: DedupConfig) -> Stage:
    """The other bands, which find what is not `joined` yet: a part a band and range of keys."""
    stage = _pairs_stage(PAIRS, signed, config, _bands(config)[_FIRST_BANDS:])
    return replace(
        stage,
        inputs={**stage.inputs, "clusters": joined.content_fingerprint},
        context={**stage.context, "labels": str(joined.folder / LABELS)},
    )


def _bands(config: DedupConfig) -> list[tuple[str, dict[str, int]]]:
    num_bands = NUM_BANDS * config.near.groupings if config.near else 0
    return [(f"band-{band:02d}", {"band": band}) for band in range(num_bands)]


def _pairs_stage(
    name: str, signed: StageResult, config: DedupConfig, keys: Sequence[tuple[str, dict[str, int]]]
) -> Stage:
    documents = signed.total("documents")
    num_ranges = -(-documents // _DOCUMENTS_A_JOIN) or 1
    parts = [
        Part(
            f"{kind}-{number:04d}",
            {**which, "range": number, "ranges": num_ranges},
            documents * 8 // num_ranges,
        )
        for kind, which in keys
        for number in range(num_ranges)
    ]
    near = config.near.model_dump(mode="json") if config.near else None
    return Stage(
        name,
        4,
        {"exact": config.exact, "near": near, "first_bands": _FIRST_BANDS},
        {"signatures": signed.content_fingerprint},
        parts,
        pairs_part,
        {"signatures": str(signed.folder), "signed": signed_parts(signed)},
    )


def pairs_part(
    folder: Path, part: Part, settings: Mapping[str, Any]
) -> tuple[Record, Sequence[str]]:
    """Writes PART.pairs.npy [2, P]: for each document (of each cluster known, its first) that has
    an earlier duplicate here, the first of those that it is connected to, and itself."""
    store = SignatureStore(Path(settings["signatures"]), settings["signed"])
    share = part.arguments["range"], part.arguments["ranges"]
    labels = np.load(settings["labels"], mmap_mode="r") if "labels" in settings else None

    def roots_of(numbers: I64) -> I64:
        return numbers if labels is None else labels[numbers].astype(np.int64)

    if "band" in part.arguments:
        band = part.arguments["band"]
        keys, numbers = store.recurring_keys("signatures", lambda s: band_keys(s, band), *share)
        pairs, compared = near_pairs(
            keys, numbers, store.signatures_of, settings["near"]["min_similarity"], roots_of
        )
    else:
        keys, numbers = store.recurring_keys("hashes", lambda hashes: hashes[0], *share)
        pairs = exact_pairs(keys, store.second_hashes_of(numbers), numbers)
        compared = {"candidates": pairs.shape[1], "uncompared": 0}
    pairs = roots_of(pairs)
    pairs = fewest_pairs(pairs[:, pairs[0] != pairs[1]])
    narrow = number_type(store.num_documents)
    save_array(folder / f"{part.name}.pairs.npy", pairs.astype(narrow))
    return {**compared, "pairs": pairs.shape[1]}, [f"{part.name}.pairs.npy"]
