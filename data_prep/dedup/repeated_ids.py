"""Ids that a source has more than once: counted, named in the report, or an error.

Two stages: a hash of each id; the hashes that occur again, a part for each source and range of
hashes. An id only names a document, so documents of one id are judged by their texts like all
others.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from configs.load import UserError
from data_prep.dataset.atomic import save_array
from data_prep.dedup.hash_ranges import HashRangePart, hash_range_parts
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.signatures import FileRun, file_runs
from data_prep.dedup.sorted_files import SortedFiles
from data_prep.documents.files import Documents, all_ids, document_ids
from data_prep.engine.stage import PartOutput, Reads, Stage, StageResult
from data_prep.readers.document import BadRecordPolicy
from data_prep.text.batch import U64

_EXAMPLES = 5


@dataclass(frozen=True, kw_only=True)
class IdsStage(Stage[FileRun]):
    """Hashes the ids of documents whose records have one (`id_field`)."""

    name = "ids"
    version = 2
    output = "arrays"

    documents: Path
    """Folder of the documents' files."""

    def inputs_for(self, part: FileRun) -> Mapping[str, str]:
        return {file.name: file.content for file in part.files}

    def run_part(self, folder: Path, part: FileRun) -> PartOutput:
        """Writes PART.ids.npy [2, D]: the hash of each document's id, ascending, and the number of
        the document in the part."""
        hashes = [np.empty(0, np.uint64)]
        for file in part.files:
            ids = all_ids(self.documents / f"{file.name}.parquet").cast(pa.binary())
            digests = [xxhash.xxh3_64_intdigest(content) for content in ids.to_pylist()]
            hashes.append(np.array(digests, dtype=np.uint64))
        array = np.concatenate(hashes)
        order = np.argsort(array, kind="stable")
        save_array(folder / f"{part.name}.ids.npy", np.stack([array[order], order]).astype("<u8"))
        return PartOutput({"documents": len(array)}, [f"{part.name}.ids.npy"])


def ids_stage(documents: Documents, sources: Collection[str], limits: DedupLimits) -> IdsStage:
    """A part for each run of files of the `sources` whose records have ids of their own."""
    runs = file_runs(documents.files, limits.signature_parts)
    return IdsStage(
        parts=[run for run in runs if run.source in sources],
        inputs={"documents": documents.content_fingerprint},
        documents=documents.folder,
    )


@dataclass(frozen=True, kw_only=True)
class RepeatedIdsStage(Stage[HashRangePart]):
    """Counts the documents whose id an earlier document of their source has."""

    name = "repeated_ids"
    version = 2
    output = "counts"

    runs: Mapping[str, Sequence[FileRun]]
    """The documents, by source."""
    ids: Path
    """Folder of the hashes of their ids."""
    documents: Path
    """Folder of the documents' files."""
    contents: Mapping[str, str]
    """A hash of the hashes of ids, by source."""
    limits: DedupLimits

    def inputs_for(self, part: HashRangePart) -> Mapping[str, str]:
        return {part.source: self.contents[part.source]}

    def reads_of(self, part: HashRangePart) -> Reads:
        return Reads(len(self.runs[part.source]), part.num_bytes)

    def run_part(self, folder: Path, part: HashRangePart) -> PartOutput:
        """Counts repeated ids and names some; writes no file."""
        runs = self.runs[part.source]
        files = SortedFiles(self.ids, [f"{run.name}.ids.npy" for run in runs], self.limits)
        slices = [files.slice(k, part.number, part.num_ranges) for k in range(len(files))]
        ascending = np.sort(np.concatenate([hashes for hashes, _ in slices]))
        again = ascending[1:][ascending[1:] == ascending[:-1]]
        wanted = np.unique(again)[:_EXAMPLES]
        examples = self._examples(runs, slices, wanted) if len(again) else []
        record = {"source": part.source, "repeated": len(again), "examples": examples}
        return PartOutput(record)

    def _examples(self, runs: Sequence[FileRun], slices: Sequence[U64], wanted: U64) -> list[str]:
        """The ids whose hashes are `wanted`; `slices` are the hashes and numbers of each run."""
        names: dict[int, str] = {}
        for run, (hashes, numbers) in zip(runs, slices, strict=True):
            hash_of = {
                int(numbers[at]): int(hashes[at]) for at in np.flatnonzero(np.isin(hashes, wanted))
            }
            first = 0
            for file in run.files:
                end = first + file.num_documents
                here = [n for n in hash_of if first <= n < end and hash_of[n] not in names]
                if here:
                    path = self.documents / f"{file.name}.parquet"
                    ids = document_ids(path, [number - first for number in here])
                    names.update((hash_of[number], ids[number - first]) for number in here)
                first = end
            if len(names) == len(wanted):
                break
        return sorted(names.values())


def repeated_ids_stage(
    hashed: StageResult[FileRun], documents: Documents, limits: DedupLimits
) -> RepeatedIdsStage:
    """A part for each source and range of hashes."""
    counts: Counter[str] = Counter()
    runs: dict[str, list[FileRun]] = {}
    for run, record in hashed.with_records():
        counts[run.source] += record["documents"]
        runs.setdefault(run.source, []).append(run)
    return RepeatedIdsStage(
        parts=hash_range_parts(counts, limits.join_ids, bytes_each=16),
        inputs={"ids": hashed.content_fingerprint},
        runs=runs,
        ids=hashed.folder,
        contents=hashed.contents(lambda run: run.source),
        documents=documents.folder,
        limits=limits,
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
