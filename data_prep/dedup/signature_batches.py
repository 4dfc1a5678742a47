"""Signatures of more documents than fit in memory, batch by batch, read in the order on disk."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_prep.dedup.minhash import NUM_BANDS
from data_prep.dedup.scratch_file import ScratchFile
from data_prep.dedup.signature_store import SignatureStore
from data_prep.kernels.compiled import Numbers
from data_prep.text.batch import U64

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
    lengths = np.array([len(numbers) for numbers in batches])
    starts = (_SIGNATURE_BYTES * (np.cumsum(lengths) - lengths)).tolist()
    with ScratchFile(scratch) as file:
        _write(store, [np.sort(numbers) for numbers in batches], starts, file)
        for numbers, start in zip(batches, starts, strict=True):
            ascending = np.empty((len(numbers), NUM_BANDS), np.uint64)
            file.read(start, ascending)
            signatures = np.empty_like(ascending)
            signatures[store.order(numbers.astype(np.int64))] = ascending
            del ascending
            yield signatures


def _write(
    store: SignatureStore, batches: Sequence[Numbers], starts: Sequence[int], file: ScratchFile
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
        for start, places, rows in zip(starts, here, np.split(signatures, ends), strict=True):
            file.write(start + _SIGNATURE_BYTES * places.start, rows)
