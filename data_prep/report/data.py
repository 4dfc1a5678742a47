"""The report of a run: what was kept and dropped and why, as JSON and as one HTML page."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from configs.terminal import visible
from data_prep.dataset.atomic import open_atomic
from data_prep.dataset.manifest import Manifest, SourceRows
from data_prep.dedup.candidates import PairsPart
from data_prep.dedup.evaluation import EvaluationPart, HeldoutPart
from data_prep.dedup.hash_ranges import HashRangePart
from data_prep.dedup.signatures import FileRun, length_counts
from data_prep.dedup.verdict_counts import counts_by_source, stays_by_goes
from data_prep.dedup.verdicts import near_examples
from data_prep.documents.files import DocumentFile, Documents, document_ids, read_texts
from data_prep.documents.ingest import IngestPart
from data_prep.engine.stage import Part, Record, StageResult
from data_prep.report.accounts import accounts
from data_prep.report.evaluation_sets import evaluation_sets
from data_prep.report.filter_values import filter_values
from data_prep.report.page import LENGTH_LABELS, Tree, render

_EXAMPLES, _EXAMPLE_BYTES = 3, 300


@dataclass(frozen=True)
class ReportInputs:
    """The stages that the report describes; None for stages that the run does not have."""

    sources: Sequence[str]
    documents: Documents
    """What deduplication started from."""
    ingested: StageResult[IngestPart]
    repeated_ids: StageResult[HashRangePart]
    cleaned: StageResult[DocumentFile] | None
    signed: StageResult[FileRun]
    pairs: Sequence[StageResult[PairsPart]]
    clusters: StageResult[Part]
    verdicts: StageResult[FileRun]
    excluded: StageResult[EvaluationPart | HeldoutPart] | None
    overlap: StageResult[DocumentFile] | None
    order_keys: StageResult[DocumentFile] | None
    tokenizer: StageResult[Part]
    encoded: StageResult[DocumentFile]
    costs: Mapping[str, Mapping[str, int]]
    """What each stage cost, see `stage_costs`."""
    left_out: Mapping[str, tuple[int, int]]
    """(documents, tokens) beyond `max_tokens`, by source."""


def write_report(output: Path, inputs: ReportInputs, manifest: Manifest) -> None:
    """Writes report.json and report.html to `output`."""
    data = report_data(inputs, manifest)
    with open_atomic(output / "report.json") as file:
        # Piece by piece: the whole text at once takes ten times its size.
        file.writelines(piece.encode() for piece in json.JSONEncoder(indent=1).iterencode(data))
        file.write(b"\n")
    with open_atomic(output / "report.html") as file:
        # Names of files may hold escape sequences, and bytes that are not UTF-8.
        file.writelines(visible(piece).encode() for piece in render(data))


def report_data(inputs: ReportInputs, manifest: Manifest) -> Tree:
    """Everything that the page shows, as JSON values."""
    duplicates = counts_by_source(inputs.verdicts, inputs.sources)
    examples = near_examples(inputs.verdicts)
    return {
        "accounts": accounts(
            inputs.sources,
            ingested=inputs.ingested,
            repeated_ids=inputs.repeated_ids,
            cleaned=inputs.cleaned,
            verdicts=inputs.verdicts,
            overlap=inputs.overlap,
            encoded=inputs.encoded,
            order_keys=inputs.order_keys,
            left_out=inputs.left_out,
        ),
        "sources": {
            name: _source_data(name, inputs, duplicates[name], manifest) for name in inputs.sources
        },
        "evaluation_sets": evaluation_sets(inputs.excluded, inputs.overlap),
        "packed": {name: _packed_data(name, manifest) for name in manifest.splits["train"]},
        "cluster_sizes": inputs.clusters.records[0]["cluster_sizes"],
        "stays_by_goes": stays_by_goes(inputs.verdicts, inputs.sources),
        "compared": {
            key: sum(pairs.total(key) for pairs in inputs.pairs)
            for key in ("candidates", "uncompared")
        },
        "near_examples": _near_examples(inputs.documents, examples),
        "dropped_examples": _dropped_examples(inputs.ingested),
        "costs": inputs.costs,
        "vocab_size": manifest.vocab_size,
        # None for a tokenizer that was not extended.
        "extension": inputs.tokenizer.records[0].get("extension"),
        "row_tokens": manifest.row_tokens,
        "packing": manifest.packing,
        "fingerprint": manifest.fingerprint,
    }


class _PartOfSource(Protocol):
    @property
    def source(self) -> str: ...


class _ResultBySource(Protocol):
    def with_records(self) -> Iterator[tuple[_PartOfSource, Record]]: ...


def _records_of(source: str, result: _ResultBySource | None) -> list[Record]:
    """The records of a source's parts; none where the run has no such stage."""
    if result is None:
        return []
    return [record for part, record in result.with_records() if part.source == source]


def _source_data(
    name: str, inputs: ReportInputs, duplicates: Mapping[str, int], manifest: Manifest
) -> Tree:
    """The counts of one source through all stages; `duplicates` are those of the verdicts."""
    ingested = _records_of(name, inputs.ingested)
    cleaned = _records_of(name, inputs.cleaned)
    filtered = cleaned or ingested
    overlap = _records_of(name, inputs.overlap)
    encoded = _records_of(name, inputs.encoded)
    repeated_ids = _records_of(name, inputs.repeated_ids)
    tokens = sum(r[f"{split}_tokens"] for r in encoded for split in manifest.splits)
    return {
        "read_documents": sum(r["documents_read"] for r in ingested),
        "read_bytes": sum(r["bytes_read"] for r in ingested),
        "filtered_documents": sum(r["documents"] for r in filtered),
        "filtered_bytes": sum(r["bytes"] for r in filtered),
        "dropped": _sum_counts(r["dropped"] for r in [*ingested, *cleaned]),
        "removed_lines": sum(r["removed_lines"] for r in cleaned),
        "removed_line_bytes": sum(r["removed_bytes"] for r in cleaned),
        "scrubbed": _sum_counts(r["scrubbed"] for r in ingested),
        "filter_values": filter_values(ingested),
        "contaminated_documents": sum(r["documents"] for r in overlap),
        "contaminated_bytes": sum(r["bytes"] for r in overlap),
        "bad": _sum_counts(r["bad"] for r in ingested),
        # Records of version 0.1.0 have no sizes.
        "bad_bytes": _sum_counts(r.get("bad_bytes", {}) for r in ingested),
        "repeated_ids": sum(r["repeated"] for r in repeated_ids),
        "repeated_id_examples": [name for r in repeated_ids for name in r["examples"]][:5],
        "bad_examples": [e for r in ingested for e in r["bad_examples"]][:10],
        **duplicates,
        "lengths": _lengths(name, inputs.signed),
        "tokens": tokens,
        "tokens_per_word": tokens / max(sum(r["words"] for r in encoded), 1),
        "bytes_per_token": sum(r["bytes"] for r in encoded) / max(tokens, 1),
        "checked_documents": sum(r["checked_documents"] for r in encoded),
    }


def _packed_data(name: str, manifest: Manifest) -> Tree:
    """The rows of one source, or of the mixed ones."""
    rows = {split: sources[name] for split, sources in manifest.splits.items()}
    return {
        "rows": {split: value.rows for split, value in rows.items()},
        "fill": _fill(rows.values(), manifest.row_tokens),
    }


def _lengths(source: str, signed: StageResult[FileRun]) -> list[int]:
    """Documents by length, see `length_counts`."""
    counts = np.zeros(len(LENGTH_LABELS), dtype=np.int64)
    for run, record in signed.with_records():
        if run.source == source:
            found = record.get("lengths")
            if found is None:  # a record of an older version
                found = length_counts(np.load(signed.folder / f"{run.name}.bytes.npy"))
            counts += found
    return counts.tolist()


def _near_examples(documents: Documents, pairs: Sequence[Sequence[int]]) -> list[Tree]:
    """The first bytes of kept documents and of their near duplicates, by (kept, duplicate)."""
    wanted = sorted({number for pair in pairs for number in pair})
    found: dict[int, Tree] = {}
    for file in documents.files:
        end = file.first + file.num_documents
        here = [number - file.first for number in wanted if file.first <= number < end]
        if here:
            path = documents.path(file.name)
            ids = document_ids(path, here)
            for at, texts in read_texts(path, np.isin(np.arange(file.num_documents), here)):
                for number in here:
                    if at <= number < at + len(texts):
                        text = texts[number - at][:_EXAMPLE_BYTES].decode("utf-8", "ignore")
                        found[file.first + number] = {"id": ids[number], "text": text}
    return [{"stays": found[stays], "goes": found[goes]} for stays, goes in pairs]


def _fill(rows: Iterable[SourceRows], row_tokens: int) -> float:
    """Share of the ids of the rows that are text tokens."""
    rows = list(rows)
    return sum(r.tokens for r in rows) / max(sum(r.rows for r in rows) * row_tokens, 1)


def _sum_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total.most_common())


def _dropped_examples(ingested: StageResult[IngestPart]) -> list[Tree]:
    """Up to three dropped documents for each source and reason."""
    examples: dict[tuple[str, str], list[Tree]] = {}
    for part, record in ingested.with_records():
        reasons = [(part.source, reason) for reason in record["dropped"]]
        if all(len(examples.get(key, [])) == _EXAMPLES for key in reasons):
            continue  # a corpus has many files, and the first ones have enough
        path = ingested.folder / f"{part.name}.dropped.jsonl"
        for line in path.read_text().splitlines():
            example = json.loads(line)
            kept = examples.setdefault((part.source, example["reason"]), [])
            if len(kept) < _EXAMPLES:
                kept.append({"source": part.source, **example})
    return [example for kept in examples.values() for example in kept]
