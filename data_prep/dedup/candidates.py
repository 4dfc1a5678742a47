"""Exact and near duplicates across all sources: the stages that find pairs of them.

Documents are numbered in the order of the sources in the config, of the files, and in the files.
The state on disk is 132 bytes per document: 112 of signature, 16 of hash and 4 of length. Joins
sort one range of keys at a time and read signatures by offset; no stage holds all documents.

Candidates come from LSH banding: documents with equal keys of a band. A duplicate has equal keys in
many bands, often in all. So equal documents and two bands come first and are joined to clusters;
the other bands write only the pairs that join these clusters further.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dataset.atomic import save_array
from data_prep.dedup.clusters import fewest_pairs, number_type
from data_prep.dedup.config import DedupConfig, NearDedupConfig
from data_prep.dedup.joins import exact_pairs, near_pairs
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.minhash import NUM_BANDS, band_keys
from data_prep.dedup.signature_store import SignatureStore
from data_prep.dedup.signatures import FileRun
from data_prep.engine.stage import Part, PartOutput, Stage, StageResult
from data_prep.text.batch import I64

_FIRST_BANDS = 2
LABELS = "clusters.labels.npy"
"""File of the clusters known after the first pairs: the label of each document."""


@dataclass(frozen=True, kw_only=True)
class PairsPart(Part):
    """Range `number` of `num_ranges` of the keys of a band, or of the exact duplicates' hashes."""

    band: int | None
    """None for exact duplicates."""
    number: int
    num_ranges: int

    def plan(self) -> dict[str, Any]:
        band = {} if self.band is None else {"band": self.band}
        return {**band, "range": self.number, "ranges": self.num_ranges}


@dataclass(frozen=True, kw_only=True)
class FirstPairsStage(Stage[PairsPart]):
    """Finds pairs with equal hashes, and with similar signatures among those of the first bands."""

    name = "first_pairs"
    version = 4
    output = "pairs"

    exact: bool
    near: NearDedupConfig | None
    signatures: Path
    """Folder of the signatures stage."""
    runs: Sequence[FileRun]
    """Its parts."""
    labels: Path | None = None
    """File of the labels of the clusters known so far; pairs inside them are left out."""
    limits: DedupLimits

    @property
    def settings(self) -> Mapping[str, Any]:
        near = self.near.model_dump(mode="json") if self.near else None
        return {"exact": self.exact, "near": near, "first_bands": _FIRST_BANDS}

    def run_part(self, folder: Path, part: PairsPart) -> PartOutput:
        """Writes PART.pairs.npy [2, P]: (first, itself) for each document that has an earlier
        duplicate here; first is the first of the documents that it is connected to. Of a cluster
        that is known so far, only its first document counts."""
        store = SignatureStore(self.signatures, self.runs, self.limits)
        labels = np.load(self.labels, mmap_mode="r") if self.labels else None

        def roots_of(numbers: I64) -> I64:
            return numbers if labels is None else labels[numbers].astype(np.int64)

        if part.band is None:
            keys, numbers = store.recurring_keys(
                "hashes", lambda hashes: hashes[0], part.number, part.num_ranges
            )
            pairs = exact_pairs(keys, store.second_hashes_of(numbers), numbers)
            compared = {"candidates": pairs.shape[1], "uncompared": 0}
        else:
            assert self.near is not None
            band = part.band
            keys, numbers = store.recurring_keys(
                "signatures", lambda s: band_keys(s, band), part.number, part.num_ranges
            )
            pairs, compared = near_pairs(
                keys, numbers, store.signatures_of, self.near.min_similarity, roots_of
            )
        pairs = roots_of(pairs)
        pairs = fewest_pairs(pairs[:, pairs[0] != pairs[1]])
        narrow = number_type(store.num_documents)
        save_array(folder / f"{part.name}.pairs.npy", pairs.astype(narrow))
        return PartOutput({**compared, "pairs": pairs.shape[1]}, [f"{part.name}.pairs.npy"])


@dataclass(frozen=True, kw_only=True)
class PairsStage(FirstPairsStage):
    """Finds the pairs of the other bands that join the clusters of the first pairs further."""

    name = "pairs"


def first_pairs_stage(
    signed: StageResult[FileRun], config: DedupConfig, limits: DedupLimits
) -> FirstPairsStage:
    """Exact duplicates and the first bands: a part for each range of their keys."""
    bands = range(_num_bands(config))[:_FIRST_BANDS]
    return FirstPairsStage(
        parts=_parts(signed, [None, *bands] if config.exact else bands, limits),
        inputs={"signatures": signed.content_fingerprint},
        exact=config.exact,
        near=config.near,
        signatures=signed.folder,
        runs=signed.parts,
        limits=limits,
    )


def pairs_stage(
    signed: StageResult[FileRun],
    clustered: StageResult[Part],
    config: DedupConfig,
    limits: DedupLimits,
) -> PairsStage:
    """The other bands: a part for each range of their keys."""
    return PairsStage(
        parts=_parts(signed, range(_num_bands(config))[_FIRST_BANDS:], limits),
        inputs={
            "signatures": signed.content_fingerprint,
            "clusters": clustered.content_fingerprint,
        },
        exact=config.exact,
        near=config.near,
        signatures=signed.folder,
        runs=signed.parts,
        labels=clustered.folder / LABELS,
        limits=limits,
    )


def _num_bands(config: DedupConfig) -> int:
    return NUM_BANDS * config.near.groupings if config.near else 0


def _parts(
    signed: StageResult[FileRun], bands: Iterable[int | None], limits: DedupLimits
) -> list[PairsPart]:
    num_documents = signed.total("documents")
    num_ranges = -(-num_documents // limits.join_documents) or 1
    return [
        PairsPart(
            name=f"{'exact' if band is None else f'band-{band:02d}'}-{number:04d}",
            num_bytes=num_documents * 8 // num_ranges,
            band=band,
            number=number,
            num_ranges=num_ranges,
        )
        for band in bands
        for number in range(num_ranges)
    ]
