"""Auxiliary vectors for FOCUS, from the rows that a run is going to be trained on."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.dataset.manifest import Manifest
from model.extended_vocabulary import AuxiliaryVectors
from pipeline.data.config import DataConfig
from pipeline.data.loader import special_ids
from pipeline.data.shard_cache import row_reader

MAX_TOKENS = 10_000_000
"""Tokens that are read: a few hundred occurrences of a rare token of a usual vocabulary."""
_RANGES = 64
"""Of consecutive rows, evenly spaced in each source."""


def auxiliary_vectors(data: DataConfig, manifest: Manifest, seed: int) -> AuxiliaryVectors:
    """Vectors of the tokens of the rows, in place of the fastText vectors that Dobler and de Melo
    (2023) train on the same text. The same on every rank, a function of rows and seed."""
    from model.token_cooccurrence import cooccurrence_vectors  # scipy, which few runs need

    special = np.flatnonzero(~special_ids(manifest).is_ordinary)
    return cooccurrence_vectors(
        list(_rows(data, manifest)), manifest.vocab_size, special, seed=seed
    )


def _rows(data: DataConfig, manifest: Manifest) -> Iterator[npt.NDArray[Any]]:
    """Rows of all sources, each in proportion to its rows, up to `MAX_TOKENS`."""
    reader = row_reader(data, manifest, "train")
    sources = manifest.splits.get("train", {})
    total = sum(source.rows for source in sources.values())
    share = min(1.0, MAX_TOKENS / max(total * manifest.row_tokens, 1))
    for name, source in sources.items():
        for number in range(_RANGES):
            first, end = (source.rows * place // _RANGES for place in (number, number + 1))
            rows = np.arange(first, first + round((end - first) * share))
            if len(rows):
                yield reader.read(name, rows)
