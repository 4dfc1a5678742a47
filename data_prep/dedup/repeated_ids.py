"""Ids that stand in a source more than once: counted, named in the report, or a reason to stop.

Two stages: a hash of each id; the hashes that occur again, a source and a range of them a part. An
id only names a document, so documents of one id are judged by their texts like all others.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from configs.load import UserError
from data_prep.config import DataConfig
from data_prep.dataset.atomic import save_array
from data_prep.dedup.hash_table import parts_by_range, range_of
from data_prep.dedup.signatures import runs_of_files
from data_prep.documents.files import document_ids
from data_prep.engine.stages import Part, Record, Stage, StageResult, source_of
from data_prep.text.batch import I64, U64

IDS, REPEATED = "ids", "repeated_ids"
_IDS_AT_ONCE = 20_000_000
_EXAMPLES = 5


def ids_stage(config: DataConfig, documents: StageResult) -> Stage:
    """A part a run of the documents' files of each source that has ids of its own."""
    own = config.sources_with_ids
    parts = [part for part in runs_of_files(documents) if source_of(part.name) in own]
    return Stage(
        IDS,
        1,
        {},
        {"documents": documents.content_fingerprint},
        parts,
        ids_part,
        {"documents": str(documents.folder)},
    )


def ids_part(folder: Path, part: Part, settings: Mapping[str, Any]) -> tuple[Record, Sequence[str]]:
    """Writes PART.ids.npy [D]: the hash of each document's id."""
    hashes = [np.empty(0, np.uint64)]
    for name, _ in part.arguments["files"]:
        path = Path(settings["documents"]) / f"{name}.parquet"
        ids = pq.read_table(path, columns=["id"], use_threads=False)["id"].cast(pa.binary())
        digests = [xxhash.xxh3_64_intdigest(content) for content in ids.to_pylist()]
        hashes.append(np.array(digests, dtype=np.uint64))
    array = np.concatenate(hashes)
    save_array(folder / f"{part.name}.ids.npy", array)
    return {"documents": len(array)}, [f"{part.name}.ids.npy"]


def repeated_stage(hashed: StageResult, documents: StageResult) -> Stage:
    """A part a source and range of hashes."""
    files: dict[str, list[tuple[str, Sequence[Any]]]] = {}
    counts: Counter[str] = Counter()
    for part, record in zip(hashed.parts, hashed.records, strict=True):
        source = source_of(part.name)
        path = str(hashed.folder / f"{part.name}.ids.npy")
        files.setdefault(source, []).append((path, part.arguments["files"]))
        counts[source] += record["documents"]
    parts = parts_by_range(counts, _IDS_AT_ONCE, 8)
    return Stage(
        REPEATED,
        1,
        {},
        {"ids": hashed.content_fingerprint},
        parts,
        repeated_part,
        {"files": files, "documents": str(documents.folder)},
    )


def repeated_part(
    folder: Path, part: Part, settings: Mapping[str, Any]
) -> tuple[Record, Sequence[str]]:
    """Counts documents whose id an earlier one has, and names some such ids; writes no file."""
    source = part.arguments["source"]
    low, high = range_of(part.arguments["range"], part.arguments["ranges"])
    found = [np.empty(0, np.uint64)]
    for path, _ in settings["files"][source]:
        hashes = np.load(path, mmap_mode="r")
        found.append(np.array(hashes[(hashes >= low) & (hashes <= high)]))
    ascending = np.sort(np.concatenate(found))
    again = ascending[1:][ascending[1:] == ascending[:-1]]
    record = {"source": source, "repeated": len(again), "examples": []}
    if len(again):
        record["examples"] = list(_examples(settings, source, np.unique(again)[:_EXAMPLES]))
    return record, []


def _examples(settings: Mapping[str, Any], source: str, wanted: U64) -> Sequence[str]:
    """The ids whose hashes are `wanted`."""
    names: dict[int, str] = {}
    for path, files in settings["files"][source]:
        hashes = np.load(path, mmap_mode="r")
        at: I64 = np.flatnonzero(np.isin(hashes, wanted))
        first = 0
        for name, count in files:
            here = [number for number in at.tolist() if first <= number < first + count]
            here = [number for number in here if int(hashes[number]) not in names]
            if here:
                documents = Path(settings["documents"]) / f"{name}.parquet"
                ids = document_ids(documents, [number - first for number in here])
                names.update((int(hashes[number]), ids[number - first]) for number in here)
            first += count
        if len(names) == len(wanted):
            break
    return sorted(names.values())


def check_ids(repeated: StageResult, config: DataConfig) -> None:
    """UserError when ids are repeated and bad records are to stop the job."""
    if config.on_bad_record != "stop":
        return
    counts: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for record in repeated.records:
        counts[record["source"]] += record["repeated"]
        examples.setdefault(record["source"], []).extend(record["examples"])
    problems = [
        f"source {source!r}: {count:,} document(s) have the id of an earlier one, such as "
        f"{', '.join(map(repr, examples[source][:_EXAMPLES]))}"
        for source, count in counts.items()
        if count
    ]
    if problems:
        raise UserError(
            "\n".join(problems)
            + "\nmend the ids, name another id_field, or set on_bad_record: skip to count such "
            "documents and go on"
        )
