"""MinHash signatures of documents, and hashes of their words for exact duplicates."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from data_prep.dataset.atomic import save_array
from data_prep.dedup.config import DedupConfig
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.minhash import NUM_BANDS, signatures
from data_prep.documents.files import DocumentFile, Documents, read_texts
from data_prep.engine.stage import Part, PartOutput, Stage
from data_prep.text.batch import U64, TextBatch

_LENGTH_LIMITS = 1 << np.arange(7, 22)


@dataclass(frozen=True, kw_only=True)
class FileRun(Part):
    """Consecutive files of documents of one source."""

    source: str
    files: Sequence[DocumentFile]

    @property
    def num_files(self) -> int:
        return len(self.files)

    @property
    def num_documents(self) -> int:
        """Documents of all its files."""
        return sum(file.num_documents for file in self.files)

    def plan(self) -> dict[str, Any]:
        return {"files": [[file.name, file.num_documents] for file in self.files]}


def file_runs(documents: Sequence[DocumentFile], most: int) -> Iterator[FileRun]:
    """The files of documents in about `most` runs or fewer.

    The size of a run is a power of two, so that most runs stay the same when documents are added.
    """
    total = sum(file.num_bytes for file in documents)
    least_bytes = 1 << max(-(-total // most) - 1, 0).bit_length()
    for source, files in groupby(documents, lambda file: file.source):
        number = num_bytes = 0
        run: list[DocumentFile] = []
        for file in files:
            run.append(file)
            num_bytes += file.num_bytes
            if num_bytes >= least_bytes:
                yield _file_run(source, number, run)
                number, run, num_bytes = number + 1, [], 0
        if run:
            yield _file_run(source, number, run)


def first_documents(runs: Sequence[FileRun]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The names of the runs that have documents, and the numbers of their first documents, with the
    number of all documents at the end."""
    filled = [run for run in runs if run.num_documents]
    counts = [run.num_documents for run in filled]
    return [run.name for run in filled], np.append(0, np.cumsum(counts, dtype=np.int64))


def _file_run(source: str, number: int, files: Sequence[DocumentFile]) -> FileRun:
    num_bytes = sum(file.num_bytes for file in files)
    return FileRun(name=f"{source}-{number:06d}", num_bytes=num_bytes, source=source, files=files)


@dataclass(frozen=True, kw_only=True)
class SignaturesStage(Stage[FileRun]):
    """Computes 112 bytes of MinHash, a hash of 16 bytes and the length of each document.

    A range of a join reads a slice of a file of each part, so there are at most about a thousand.
    """

    name = "signatures"
    version = 4
    output = "arrays"

    documents: Path
    """Folder of the documents' files."""
    ngram_words: int | None
    """Words of an n-gram; None for no signatures."""

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"ngram_words": self.ngram_words}

    def inputs_for(self, part: FileRun) -> Mapping[str, str]:
        return {file.name: file.content for file in part.files}

    def run_part(self, folder: Path, part: FileRun) -> PartOutput:
        """Writes PART.signatures.npy [D, 14], PART.hashes.npy [2, D], PART.bytes.npy [D]."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "hashes": np.empty((2, part.num_documents), np.uint64),
            "bytes": np.empty(part.num_documents, np.uint32),
        }
        if self.ngram_words is not None:
            arrays["signatures"] = np.empty((part.num_documents, NUM_BANDS), np.uint64)
        start = 0
        for file in part.files:
            for first, texts in read_texts(self.documents / f"{file.name}.parquet"):
                batch = TextBatch(texts)
                hashes = word_sequence_hashes(batch)
                here = slice(start + first, start + first + len(texts))
                arrays["hashes"][:, here] = hashes
                arrays["bytes"][here] = batch.lengths
                if self.ngram_words is not None:
                    signed = signatures(batch, self.ngram_words, hashes[0])
                    arrays["signatures"][here] = signed
            start += file.num_documents
        for name, array in arrays.items():
            save_array(folder / f"{part.name}.{name}.npy", array)
        names = [f"{part.name}.{name}.npy" for name in arrays]
        lengths = length_counts(arrays["bytes"])
        return PartOutput({"documents": part.num_documents, "lengths": lengths}, names)


def signatures_stage(
    documents: Documents, config: DedupConfig, limits: DedupLimits
) -> SignaturesStage:
    """A part for each run of files."""
    return SignaturesStage(
        parts=list(file_runs(documents.files, limits.signature_parts)),
        inputs={documents.stage: documents.content_fingerprint},
        documents=documents.folder,
        ngram_words=config.near.ngram_words if config.near else None,
    )


def length_counts(lengths: npt.NDArray[np.uint32]) -> list[int]:
    """Documents by length in bytes: under 2^7, under 2^8, ..., of 2^21 and more."""
    places = np.searchsorted(_LENGTH_LIMITS, lengths, side="right")
    counts: list[int] = np.bincount(places, minlength=len(_LENGTH_LIMITS) + 1).tolist()
    return counts


def word_sequence_hashes(batch: TextBatch) -> U64:
    """Two 64-bit hashes of the word sequence of each text: [2, D]; the key of exact duplicates.

    Case and punctuation do not count.
    """
    content = batch.token_hashes.tobytes()
    bounds = (batch.first_tokens * 8).tolist()
    digests = b"".join(
        [xxhash.xxh3_128_digest(content[start:end]) for start, end in pairwise(bounds)]
    )
    return np.ascontiguousarray(np.frombuffer(digests, dtype="<u8").reshape(-1, 2).T)
