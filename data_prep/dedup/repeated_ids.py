"""Ids that a source has more than once: counted, named in the report, or an error.

Two stages: a hash of each id; the hashes that occur again, a part for each source and range of
hashes. An id only names a document, so documents of one id are judged by their texts like all
others.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from configs.load import UserError
from data_prep.dataset.atomic import save_array
from data_prep.dedup.hash_ranges import HashRangePart, hash_range_parts, range_of
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.signatures import FileRun, file_runs
from data_prep.documents.files import Documents, document_ids
from data_prep.engine.stage import PartOutput, Stage, StageResult
from data_prep.readers.document import BadRecordPolicy
from data_prep.text.batch import I64, U64

_EXAMPLES = 5


@dataclass(frozen=True, kw_only=True)
class IdsStage(Stage[FileRun]):
    """Hashes the ids of documents whose records have one (`id_field`)."""

    name = "ids"
    version = 1
    output = "arrays"

    documents: Path
    """Folder of the documents' files."""

    def inputs_for(self, part: FileRun) -> Mapping[str, str]:
        return {file.name: file.content for file in part.files}

    def run_part(self, folder: Path, part: FileRun) -> PartOutput:
        """Writes PART.ids.npy [D]: the hash of each document's id."""
        hashes = [np.empty(0, np.uint64)]
        for file in part.files:
            path = self.documents / f"{file.name}.parquet"
            ids = pq.read_table(path, columns=["id"], use_threads=False)["id"].cast(pa.binary())
            digests = [xxhash.xxh3_64_intdigest(content) for content in ids.to_pylist()]
            hashes.append(np.array(digests, dtype=np.uint64))
        array = np.concatenate(hashes)
        save_array(folder / f"{part.name}.ids.npy", array)
        return PartOutput({"documents": len(array)}, [f"{part.name}.ids.npy"])


def ids_stage(documents: Documents, sources: Collection[str], limits: DedupLimits) -> IdsStage:
    """A part for each run of files of the `sources` whose records have ids of their own."""
    runs = file_runs(documents, limits.signature_parts)
    return IdsStage(
        parts=[run for run in runs if run.source in sources],
        inputs={"documents": documents.content_fingerprint},
        documents=documents.folder,
    )


@dataclass(frozen=True, kw_only=True)
class RepeatedIdsStage(Stage[HashRangePart]):
    """Counts the documents whose id an earlier document of their source has."""

    name = "repeated_ids"
    version = 1
    output = "counts"

    runs: Sequence[tuple[FileRun, Path]]
    """The documents, each run with the file of its hashes."""
    documents: Path
    """Folder of the documents' files."""
    contents: Mapping[str, str]
    """A hash of the hashes of ids, by source."""

    def inputs_for(self, part: HashRangePart) -> Mapping[str, str]:
        return {part.source: self.contents[part.source]}

    def run_part(self, folder: Path, part: HashRangePart) -> PartOutput:
        """Counts repeated ids and names some; writes no file."""
        low, high = range_of(part.number, part.num_ranges)
        found = [np.empty(0, np.uint64)]
        for _, path in self._runs_of(part.source):
            hashes = np.load(path, mmap_mode="r")
            found.append(np.array(hashes[(hashes >= low) & (hashes <= high)]))
        ascending = np.sort(np.concatenate(found))
        again = ascending[1:][ascending[1:] == ascending[:-1]]
        examples: list[str] = []
        if len(again):
            examples = self._examples(part.source, np.unique(again)[:_EXAMPLES])
        record = {"source": part.source, "repeated": len(again), "examples": examples}
        return PartOutput(record)

    def _runs_of(self, source: str) -> Iterable[tuple[FileRun, Path]]:
        return (entry for entry in self.runs if entry[0].source == source)

    def _examples(self, source: str, wanted: U64) -> list[str]:
        """The ids whose hashes are `wanted`."""
        names: dict[int, str] = {}
        for run, path in self._runs_of(source):
            hashes = np.load(path, mmap_mode="r")
            at: I64 = np.flatnonzero(np.isin(hashes, wanted))
            first = 0
            for file in run.files:
                end = first + file.num_documents
                here = [number for number in at.tolist() if first <= number < end]
                here = [number for number in here if int(hashes[number]) not in names]
                if here:
                    documents = self.documents / f"{file.name}.parquet"
                    ids = document_ids(documents, [number - first for number in here])
                    names.update((int(hashes[number]), ids[number - first]) for number in here)
                first = end
            if len(names) == len(wanted):
                break
        return sorted(names.values())


def repeated_ids_stage(
    hashed: StageResult[FileRun], documents: Documents, limits: DedupLimits
) -> RepeatedIdsStage:
    """A part for each source and range of hashes."""
    counts: Counter[str] = Counter()
    for run, record in hashed.with_records():
        counts[run.source] += record["documents"]
    return RepeatedIdsStage(
        parts=hash_range_parts(counts, limits.join_ids, bytes_each=8),
        inputs={"ids": hashed.content_fingerprint},
        runs=list(zip(hashed.parts, hashed.files(".ids.npy"), strict=True)),
        contents=hashed.contents(lambda run: run.source),
        documents=documents.folder,
    )


def check_ids(repeated: StageResult[HashRangePart], on_bad_record: BadRecordPolicy) -> None:
    """UserError when ids are repeated and `on_bad_record` is "stop"."""
    if on_bad_record != "stop":
        return
    counts: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for part, record in repeated.with_records():
        counts[part.source] += record["repeated"]
        examples.setdefault(part.source, []).extend(record["examples"])
    problems = [
        f"source {source!r}: {count:,} document(s) have the id of an earlier one, such as "
        f"{', '.join(map(repr, examples[source][:_EXAMPLES]))}"
        for source, count in counts.items()
        if count
    ]
    if problems:
        raise UserError(
            "\n".join(problems)
            + "\nfix the ids, name a different id_field, or set on_bad_record: skip to count these "
            "documents and continue"
        )
