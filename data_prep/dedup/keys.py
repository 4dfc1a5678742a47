"""Sorted runs of keys: what a join reads instead of the keys of all documents.

A run is a part of the signatures stage. For every band it holds the keys of its documents in
ascending order, each with the document that has it. A join of a range of keys then reads a slice of
each run: over all ranges every key is read once.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.dataset.atomic import open_atomic, start_array
from data_prep.dedup.array_files import ArrayFiles
from data_prep.dedup.clusters import number_type
from data_prep.dedup.key_order import HIGHEST_KEY, key_order, recurring
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.minhash import NUM_BANDS, Signatures, band_keys
from data_prep.dedup.signatures import FileRun, first_documents
from data_prep.engine.stage import PartOutput, Reads, Stage, StageResult
from data_prep.text.batch import I64, U64

BYTES_PER_KEY = 12
_DOCUMENTS_AT_ONCE = 1 << 17
"""Of those that share keys, about: they are handed on together."""
_SLACK = 1.25
"""By how much a range may exceed the usual number of keys before it is divided."""
_BYTES_PER_DOCUMENT = 8 * (NUM_BANDS + 2)


@dataclass(frozen=True, kw_only=True)
class KeysStage(Stage[FileRun]):
    """Sorts the keys of each band, 12 bytes each, so that a join reads only its range of them."""

    name = "keys"
    version = 1
    output = "arrays"

    bands: Sequence[int | None]
    """None stands for the hashes of exact duplicates."""
    signatures: Path
    """Folder of the signatures stage."""
    contents: Mapping[str, str]
    """A hash of the outputs of each of its parts, by name."""

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"bands": list(self.bands)}

    def inputs_for(self, part: FileRun) -> Mapping[str, str]:
        return {part.name: self.contents[part.name]}

    def reads_of(self, part: FileRun) -> Reads:
        return Reads(2, _BYTES_PER_DOCUMENT * part.num_documents)

    def run_part(self, folder: Path, part: FileRun) -> PartOutput:
        """Writes PART.keys.npy [bands, D], ascending, and PART.rows.npy [bands, D]: the row of each
        key's document in the part."""
        names = [f"{part.name}.keys.npy", f"{part.name}.rows.npy"]
        shape = (len(self.bands), part.num_documents)
        with ExitStack() as stack:
            keys_file, rows_file = (
                stack.enter_context(open_atomic(folder / name)) for name in names
            )
            for file, dtype in ((keys_file, "<u8"), (rows_file, "<u4")):
                start_array(file, shape, dtype)
            signed = None
            if any(band is not None for band in self.bands):
                signed = np.load(self.signatures / f"{part.name}.signatures.npy")
            for band in self.bands:
                keys = self._keys_of(part, band, signed)
                rows = key_order(keys)  # of equal keys, the earlier document first
                keys_file.write(keys[rows].data)
                rows_file.write(rows.astype("<u4").data)
        return PartOutput({"documents": part.num_documents}, names)

    def _keys_of(self, part: FileRun, band: int | None, signed: Signatures | None) -> U64:
        if band is None:
            hashes: U64 = np.load(self.signatures / f"{part.name}.hashes.npy", mmap_mode="r")
            return np.ascontiguousarray(hashes[0])
        assert signed is not None
        return band_keys(signed, band)


def keys_stage(signed: StageResult[FileRun], bands: Sequence[int | None]) -> KeysStage:
    """A part for each part of the signatures."""
    return KeysStage(
        parts=signed.parts,
        inputs={"signatures": signed.content_fingerprint},
        bands=bands,
        signatures=signed.folder,
        contents=signed.contents(lambda run: run.name),
    )


@dataclass(frozen=True)
class KeyRange:
    """The keys of one band from `low` to `high`."""

    row: int
    """The band's row in the files."""
    low: int
    high: int
    bounds: npt.NDArray[np.int64]
    """[runs, 2]: where they start and end in each run."""

    @property
    def num_keys(self) -> int:
        """How many there are, equal ones included."""
        return int((self.bounds[:, 1] - self.bounds[:, 0]).sum())


class KeyRuns:
    """The runs of all parts, read by ranges of keys."""

    def __init__(
        self,
        folder: Path,
        runs: Sequence[FileRun],
        bands: Sequence[int | None],
        limits: DedupLimits,
    ) -> None:
        """`folder` is that of the keys stage, `runs` are its parts."""
        self._bands = list(bands)
        names, self._first = first_documents(runs)
        self._keys_files = [f"{name}.keys.npy" for name in names]
        self._rows_files = [f"{name}.rows.npy" for name in names]
        self.num_documents = int(self._first[-1])
        self._number_type = number_type(self.num_documents)
        self._files = ArrayFiles(folder, limits.open_files)
        self._counts = np.diff(self._first)

    def ranges(self, band: int | None, low: int, high: int, usual: int) -> Iterator[KeyRange]:
        """The keys of `band` from `low` to `high` in ranges of about `usual` keys.

        A range has more than a quarter more only where all of them are equal.
        """
        row = self._bands.index(band)
        expected = self.num_documents * (high - low + 1) >> 64  # were they spread evenly
        yield from self._divided(row, low, high, -(-expected // usual) or 1, usual)

    def _divided(
        self, row: int, low: int, high: int, num_ranges: int, usual: int
    ) -> Iterator[KeyRange]:
        """The same in `num_ranges` equal ranges, each divided further where it has too many."""
        edges = [low + (high - low + 1) * number // num_ranges for number in range(num_ranges + 1)]
        bounds = self._bounds(row, edges)
        for number in range(num_ranges):
            first, last = edges[number], edges[number + 1] - 1
            found = KeyRange(row, first, last, bounds[:, number : number + 2])
            if found.num_keys <= _SLACK * usual or first == last:
                yield found
            else:
                num_pieces = min(-(-found.num_keys // usual), last - first + 1)
                yield from self._divided(row, first, last, num_pieces, usual)

    def recurring_in(self, part: KeyRange) -> Iterator[tuple[U64, I64]]:
        """The keys of `part` that at least two documents have, and the numbers of these documents:
        ascending by key and number, some keys at a time."""
        sizes = part.bounds[:, 1] - part.bounds[:, 0]
        starts = np.append(0, np.cumsum(sizes))
        keys = np.empty(part.num_keys, dtype=np.uint64)
        rows = np.empty(part.num_keys, dtype=np.uint32)
        for run in np.flatnonzero(sizes).tolist():
            here, first = slice(starts[run], starts[run + 1]), int(part.bounds[run, 0])
            at = self._place(run, part.row, first)
            self._files.read(self._keys_files[run], at, keys[here])
            self._files.read(self._rows_files[run], at, rows[here])
        numbers = rows.astype(self._number_type, copy=False)
        numbers += np.repeat(self._first[:-1].astype(self._number_type), sizes)
        held: list[I64] = []
        for places in recurring(keys, starts, part.low, part.high):
            held.append(places)
            if sum(map(len, held)) >= _DOCUMENTS_AT_ONCE:
                found, held = held[0] if len(held) == 1 else np.concatenate(held), []
                yield keys[found], numbers[found].astype(np.int64)
        if held:
            found = np.concatenate(held)
            yield keys[found], numbers[found].astype(np.int64)

    def numbers_in(self, part: KeyRange, at_once: int) -> Iterator[I64]:
        """The numbers of the documents of `part`, whose keys are all equal, ascending, up to
        `at_once` at a time."""
        for run, (start, end) in enumerate(part.bounds.tolist()):
            for at in range(start, end, at_once):
                rows = np.empty(min(at + at_once, end) - at, dtype=np.uint32)
                self._files.read(self._rows_files[run], self._place(run, part.row, at), rows)
                yield rows.astype(np.int64) + self._first[run]

    def _bounds(self, row: int, edges: Sequence[int]) -> npt.NDArray[np.int64]:
        """[runs, edges] where keys from each of the ascending `edges` on start in each run."""
        inside = np.array([edge for edge in edges if edge <= HIGHEST_KEY], dtype=np.uint64)
        bounds = np.repeat(self._counts[:, None], len(edges), axis=1)
        for run in range(len(self._keys_files)):
            start, length = self._place(run, row, 0), int(self._counts[run])
            found = self._files.bounds(self._keys_files[run], start, length, inside)
            bounds[run, : len(inside)] = found
        return bounds

    def _place(self, run: int, row: int, column: int) -> int:
        """Where a number stands in a file of a run."""
        return row * int(self._counts[run]) + column
