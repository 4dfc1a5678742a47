"""MinHash signatures of documents."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from data_prep.dataset.atomic import save_array
from data_prep.dedup.config import DedupConfig
from data_prep.dedup.minhash import NUM_BANDS, signatures
from data_prep.documents.files import read_texts
from data_prep.engine.stages import Part, Record, Stage, StageResult
from data_prep.text.batch import U64, TextBatch

SIGNATURES = "signatures"
_MOST_PARTS = 1024


def signatures_stage(documents: StageResult, config: DedupConfig) -> Stage:
    """A part a run of the documents' files of one source: signatures, hashes and lengths.

    Joins read the files of all parts, each many times; so there are no more than about a thousand.
    """
    ngram_words = config.near.ngram_words if config.near else None
    return Stage(
        SIGNATURES,
        2,
        {"ngram_words": ngram_words},
        {"ingest": documents.content_fingerprint},
        list(runs_of_files(documents)),
        signatures_part,
        {"documents": str(documents.folder)},
    )


def runs_of_files(documents: StageResult) -> Iterator[Part]:
    """About a thousand parts at the most, each of whole files of one source; `files` of a part are
    their names and numbers of documents."""
    least_bytes = documents.total("bytes") / _MOST_PARTS
    by_source = groupby(documents.records, lambda record: record["source"])
    for source, records in by_source:
        number, run, num_bytes = 0, [], 0
        for record in records:
            run.append([record["name"], record["documents"]])
            num_bytes += record["bytes"]
            if num_bytes >= least_bytes:
                yield Part(f"{source}-{number:06d}", {"files": run}, num_bytes)
                number, run, num_bytes = number + 1, [], 0
        if run:
            yield Part(f"{source}-{number:06d}", {"files": run}, num_bytes)


def signatures_part(
    folder: Path, part: Part, settings: Mapping[str, Any]
) -> tuple[Record, Sequence[str]]:
    """Writes PART.signatures.npy [14, D], PART.hashes.npy [2, D], PART.bytes.npy [D]."""
    ngram_words = settings["ngram_words"]
    num_documents = sum(documents for _, documents in part.arguments["files"])
    arrays: dict[str, npt.NDArray[Any]] = {
        "hashes": np.empty((2, num_documents), np.uint64),
        "bytes": np.empty(num_documents, np.uint32),
    }
    if ngram_words is not None:
        arrays["signatures"] = np.empty((NUM_BANDS, num_documents), np.uint64)
    begin = 0
    for name, documents in part.arguments["files"]:
        for first, texts in read_texts(Path(settings["documents"]) / f"{name}.parquet"):
            batch = TextBatch(texts)
            hashes = word_sequence_hashes(batch)
            here = slice(begin + first, begin + first + len(texts))
            arrays["hashes"][:, here] = hashes
            arrays["bytes"][here] = batch.lengths
            if ngram_words is not None:
                arrays["signatures"][:, here] = signatures(batch, ngram_words, fallback=hashes[0])
        begin += documents
    for name, array in arrays.items():
        save_array(folder / f"{part.name}.{name}.npy", array)
    return {"documents": num_documents}, [f"{part.name}.{name}.npy" for name in arrays]


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


def signed_parts(signed: StageResult) -> list[tuple[str, int]]:
    """(name, documents) of each part of the signatures."""
    return [(p.name, r["documents"]) for p, r in zip(signed.parts, signed.records, strict=True)]
