"""Signatures of more documents than fit in memory, batch by batch, read in the order on disk."""

import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from data_prep.dedup.minhash import NUM_BANDS
from data_prep.dedup.signature_store import SignatureStore
from data_prep.engine.scratch import scratch_folder
from data_prep.text.batch import U64

Numbers = npt.NDArray[np.integer[Any]]
_SIGNATURE_BYTES = 8 * NUM_BANDS
_DOCUMENTS_AT_ONCE = 1 << 16
"""So many, about, are read together: 7 MB."""
_SAMPLED = 64
"""Which ones is decided by one number in so many."""


def signatures_of_batches(
    store: SignatureStore, scratch: Path, batches: Sequence[Numbers]
) -> Iterator[U64]:
    """The signatures of each batch of documents, [n, 14].

    Those of all batches are read in the order on disk, so that neighbours are read together, and
    written to a temporary file in the folder `scratch`, which has a place for each batch.
    """
    if len(batches) < 2:
        yield from (store.signatures_of(numbers.astype(np.int64)) for numbers in batches)
        return
    starts = np.cumsum([0, *(_SIGNATURE_BYTES * len(numbers) for numbers in batches)]).tolist()
    with tempfile.TemporaryFile(dir=scratch_folder(scratch)) as file:
        _write(store, [np.sort(numbers) for numbers in batches], starts, file)
        for numbers, (start, end) in zip(batches, pairwise(starts), strict=True):
            file.seek(start)
            content = file.read(end - start)
            assert len(content) == end - start, start
            signatures = np.empty((len(numbers), NUM_BANDS), np.uint64)
            ascending = np.frombuffer(content, np.uint64).reshape(signatures.shape)
            signatures[store.order(numbers.astype(np.int64))] = ascending
            del content, ascending
            yield signatures


def _write(
    store: SignatureStore, batches: Sequence[Numbers], starts: Sequence[int], file: IO[bytes]
) -> None:
    """Writes the signatures of each batch, whose numbers ascend, to `file` from its start on."""
    sample = np.sort(np.concatenate([numbers[::_SAMPLED] for numbers in batches]))
    edges = sample[:: max(_DOCUMENTS_AT_ONCE // _SAMPLED, 1)]
    bounds = [
        [0, *np.searchsorted(numbers, edges[1:]).tolist(), len(numbers)] for numbers in batches
    ]
    for window in range(len(edges)):
        here = [slice(of_batch[window], of_batch[window + 1]) for of_batch in bounds]
        some = [numbers[places] for numbers, places in zip(batches, here, strict=True)]
        signatures = store.signatures_of(np.concatenate(some).astype(np.int64))
        ends = np.cumsum([len(numbers) for numbers in some])[:-1]
        for start, places, rows in zip(starts, here, np.split(signatures, ends), strict=False):
            file.seek(start + _SIGNATURE_BYTES * places.start)
            file.write(rows.data)
