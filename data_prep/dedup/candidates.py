"""Exact and near duplicates across all sources: the stages that find pairs of them.

Documents are numbered in the order of the sources in the config, of the files, and in the files.
Joins read the keys of one range at a time, and signatures by document; no stage that is here holds
all documents, nor all that share a key.

Candidates come from LSH banding: documents with equal keys of a band. A duplicate has equal keys in
many bands, often in all. So equal documents and two bands come first and are joined to clusters;
the other bands leave out the copies of equal documents, and write only the pairs that join these
clusters further.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dataset.atomic import save_array
from data_prep.dedup.clusters import fewest_pairs, number_type
from data_prep.dedup.config import DedupConfig, NearDedupConfig
from data_prep.dedup.hash_ranges import range_of
from data_prep.dedup.keys import BYTES_PER_KEY, KeyRuns
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.minhash import NUM_BANDS
from data_prep.dedup.range_join import KnownClusters, RangeJoin
from data_prep.dedup.signature_store import SignatureStore
from data_prep.dedup.signatures import FileRun
from data_prep.engine.stage import Part, PartOutput, Reads, Stage, StageResult
from data_prep.text.batch import I64

_FIRST_BANDS = 2
LABELS = "clusters.labels.npy"
"""File of the clusters known after the first pairs: the label of each document."""
COPIES = "clusters.copies.npy"
"""File of a bit for each document: whether an earlier one is equal."""


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
    version = 5
    output = "pairs"

    exact: bool
    near: NearDedupConfig | None
    signatures: Path
    """Folder of the signatures stage."""
    runs: Sequence[FileRun]
    """Its parts."""
    keys: Path
    """Folder of the keys stage."""
    bands: Sequence[int | None]
    """The bands that it sorted."""
    labels: Path | None = None
    """File of the labels of the clusters known so far; pairs inside them are left out."""
    copies: Path | None = None
    """File of a bit for each document that has an equal earlier one, which stands for it."""
    limits: DedupLimits

    @property
    def settings(self) -> Mapping[str, Any]:
        near = self.near.model_dump(mode="json") if self.near else None
        return {"exact": self.exact, "near": near, "first_bands": _FIRST_BANDS}

    def reads_of(self, part: PairsPart) -> Reads:
        # Keys, the rows of documents, and signatures or hashes: a slice of a file of each run.
        return Reads(3 * len(self.runs), part.num_bytes)

    def run_part(self, folder: Path, part: PairsPart) -> PartOutput:
        """Writes PART.pairs.npy [2, P]: (first, itself) for each document that has an earlier
        duplicate here; first is the first of the documents that it is connected to. Of a cluster
        that is known so far, only its first document counts."""
        store = SignatureStore(self.signatures, self.runs, self.limits)
        known = KnownClusters(self.labels, self.copies, self.limits)
        join = RangeJoin(
            KeyRuns(self.keys, self.runs, self.bands, self.limits),
            store,
            known,
            self.near.min_similarity if self.near else 1.0,
            self.limits,
            folder,
        )
        narrow = number_type(store.num_documents)
        found = [np.empty((2, 0), narrow)]
        low, high = range_of(part.number, part.num_ranges)
        for some in join.pairs(part.band, int(low), int(high)):
            pairs: I64 = known.roots_of(some)
            found.append(fewest_pairs(pairs[:, pairs[0] != pairs[1]]).astype(narrow))
        joined = np.concatenate(found, axis=1)
        found.clear()
        if self.labels is None:  # a document has one key
            order = np.argsort(joined[1], kind="stable")
            for row in joined:
                row[:] = row[order]
        else:  # and a known cluster has many
            joined = fewest_pairs(joined.astype(np.int64)).astype(narrow)
        save_array(folder / f"{part.name}.pairs.npy", joined)
        counts = {**join.compared, "pairs": joined.shape[1]}
        return PartOutput(counts, [f"{part.name}.pairs.npy"])


@dataclass(frozen=True, kw_only=True)
class PairsStage(FirstPairsStage):
    """Finds the pairs of the other bands that join the clusters of the first pairs further."""

    name = "pairs"


def all_bands(config: DedupConfig) -> list[int | None]:
    """What documents are joined by: None for exact duplicates, and the bands."""
    near = range(NUM_BANDS * config.near.groupings if config.near else 0)
    return [*([None] if config.exact else []), *near]


def first_pairs_stage(
    signed: StageResult[FileRun],
    sorted_keys: StageResult[FileRun],
    config: DedupConfig,
    limits: DedupLimits,
) -> FirstPairsStage:
    """Exact duplicates and the first bands: a part for each range of their keys."""
    bands = [band for band in all_bands(config) if band is None or band < _FIRST_BANDS]
    return FirstPairsStage(
        parts=_parts(signed, bands, limits),
        inputs={"keys": sorted_keys.content_fingerprint},
        exact=config.exact,
        near=config.near,
        signatures=signed.folder,
        runs=signed.parts,
        keys=sorted_keys.folder,
        bands=all_bands(config),
        limits=limits,
    )


def pairs_stage(
    signed: StageResult[FileRun],
    sorted_keys: StageResult[FileRun],
    clustered: StageResult[Part],
    config: DedupConfig,
    limits: DedupLimits,
) -> PairsStage:
    """The other bands: a part for each range of their keys."""
    bands = [band for band in all_bands(config) if band is not None and band >= _FIRST_BANDS]
    return PairsStage(
        parts=_parts(signed, bands, limits),
        inputs={
            "keys": sorted_keys.content_fingerprint,
            "clusters": clustered.content_fingerprint,
        },
        exact=config.exact,
        near=config.near,
        signatures=signed.folder,
        runs=signed.parts,
        keys=sorted_keys.folder,
        bands=all_bands(config),
        labels=clustered.folder / LABELS,
        copies=clustered.folder / COPIES,
        limits=limits,
    )


def _parts(
    signed: StageResult[FileRun], bands: Iterable[int | None], limits: DedupLimits
) -> list[PairsPart]:
    num_documents = signed.total("documents")
    num_ranges = -(-num_documents // limits.join_documents) or 1
    return [
        PairsPart(
            name=f"{'exact' if band is None else f'band-{band:02d}'}-{number:04d}",
            num_bytes=num_documents * BYTES_PER_KEY // num_ranges,
            band=band,
            number=number,
            num_ranges=num_ranges,
        )
        for band in bands
        for number in range(num_ranges)
    ]
