"""The report of a run: what was kept and dropped and why, as JSON and as one HTML page."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.config import DataConfig
from data_prep.dataset.atomic import write_atomic
from data_prep.dataset.manifest import Manifest
from data_prep.documents.files import document_ids, read_texts
from data_prep.documents.ingest import documents_of
from data_prep.engine.stages import Part, StageResult, source_of
from data_prep.report.page import LENGTH_LABELS, Tree, render

_EXAMPLE_BYTES = 300
_LENGTH_LIMITS = 1 << np.arange(7, 22)


def write_report(
    output: Path, config: DataConfig, results: Mapping[str, StageResult], manifest: Manifest
) -> None:
    """Writes report.json and report.html to `output`."""
    data = report_data(config, results, manifest)
    write_atomic(output / "report.json", json.dumps(data, indent=1) + "\n")
    write_atomic(output / "report.html", render(data))


def report_data(config: DataConfig, results: Mapping[str, StageResult], manifest: Manifest) -> Tree:
    """Everything that the page shows, as JSON values."""
    verdicts = results["verdicts"].records[0]
    documents = results.get("clean") or documents_of(results["ingest"])
    return {
        "sources": {name: _source_data(name, results, manifest) for name in config.sources},
        "packed": {name: _packed_data(name, manifest) for name in manifest.splits["train"]},
        "cluster_sizes": verdicts["cluster_sizes"],
        "stays_by_goes": verdicts["stays_by_goes"],
        "compared": {
            key: sum(results[stage].total(key) for stage in ("first_pairs", "pairs"))
            for key in ("candidates", "uncompared")
        },
        "near_examples": _near_examples(documents, verdicts["near_examples"]),
        "dropped_examples": _dropped_examples(results["ingest"]),
        "vocab_size": manifest.vocab_size,
        "row_tokens": manifest.row_tokens,
        "packing": manifest.packing,
        "fingerprint": manifest.fingerprint,
    }


def _source_data(name: str, results: Mapping[str, StageResult], manifest: Manifest) -> Tree:
    """The counts of one source through all stages."""
    mine = {
        stage: [record for part, record in _parts_and_records(results, stage) if _is_of(part, name)]
        for stage in ("ingest", "repeated_ids", "clean", "overlap", "encode", "signatures")
    }
    records = mine["ingest"]
    tokens = sum(r[f"{split}_tokens"] for r in mine["encode"] for split in manifest.splits)
    filtered = mine["clean"] or records
    return {
        "read_documents": sum(r["documents_read"] for r in records),
        "read_bytes": sum(r["bytes_read"] for r in records),
        "filtered_documents": sum(r["documents"] for r in filtered),
        "filtered_bytes": sum(r["bytes"] for r in filtered),
        "dropped": _sum_counts(r["dropped"] for r in [*records, *mine["clean"]]),
        "removed_lines": sum(r["removed_lines"] for r in mine["clean"]),
        "removed_line_bytes": sum(r["removed_bytes"] for r in mine["clean"]),
        "scrubbed": _sum_counts(r["scrubbed"] for r in records),
        "contaminated_documents": sum(r["documents"] for r in mine["overlap"]),
        "contaminated_bytes": sum(r["bytes"] for r in mine["overlap"]),
        "bad": _sum_counts(r["bad"] for r in records),
        "repeated_ids": sum(r["repeated"] for r in mine["repeated_ids"]),
        "repeated_id_examples": [name for r in mine["repeated_ids"] for name in r["examples"]][:5],
        "bad_examples": [e for r in records for e in r["bad_examples"]][:10],
        **results["verdicts"].records[0]["sources"][name],
        "lengths": _lengths(name, results["signatures"]),
        "tokens": tokens,
        "tokens_per_word": tokens / max(sum(r["words"] for r in mine["encode"]), 1),
        "bytes_per_token": sum(r["bytes"] for r in mine["encode"]) / max(tokens, 1),
        "checked_documents": sum(r["checked_documents"] for r in mine["encode"]),
    }


def _packed_data(name: str, manifest: Manifest) -> Tree:
    """The rows of one source, or of the mixed ones."""
    rows = {split: sources[name] for split, sources in manifest.splits.items()}
    return {
        "rows": {split: value.rows for split, value in rows.items()},
        "fill": _fill(rows.values(), manifest.row_tokens),
    }


def _is_of(part: Part, source: str) -> bool:
    return source_of(part.name) == source


def _lengths(source: str, signed: StageResult) -> list[int]:
    """Documents by length: under 2^7 bytes, under 2^8, ..., of 2^21 and more."""
    counts = np.zeros(len(LENGTH_LABELS), dtype=np.int64)
    for part in signed.parts:
        if _is_of(part, source):
            lengths = np.load(signed.folder / f"{part.name}.bytes.npy")
            places = np.searchsorted(_LENGTH_LIMITS, lengths, side="right")
            counts += np.bincount(places, minlength=len(counts))
    return [int(count) for count in counts]


def _near_examples(documents: StageResult, pairs: Sequence[Sequence[int]]) -> list[Tree]:
    """The beginnings of documents that stayed and of their near duplicates that went."""
    wanted = sorted({number for pair in pairs for number in pair})
    found: dict[int, Tree] = {}
    first = 0
    for part, record in zip(documents.parts, documents.records, strict=True):
        last = first + record["documents"]
        here = [number - first for number in wanted if first <= number < last]
        if here:
            path = documents.folder / f"{part.name}.parquet"
            ids = document_ids(path, here)
            for at, texts in read_texts(path, np.isin(np.arange(last - first), here)):
                for number in here:
                    if at <= number < at + len(texts):
                        text = texts[number - at][:_EXAMPLE_BYTES].decode("utf-8", "ignore")
                        found[first + number] = {"id": ids[number], "text": text}
        first = last
    return [{"stays": found[stays], "goes": found[goes]} for stays, goes in pairs]


def _parts_and_records(results: Mapping[str, StageResult], stage: str) -> list[tuple[Part, Tree]]:
    """The parts of a stage with their records; none where the run had no such stage."""
    if stage not in results:
        return []
    return list(zip(results[stage].parts, results[stage].records, strict=True))


def _records(results: Mapping[str, StageResult], stage: str) -> list[Tree]:
    return [record for _, record in _parts_and_records(results, stage)]


def _fill(rows: Iterable[Any], row_tokens: int) -> float:
    """Share of the ids of the rows that are text tokens."""
    rows = list(rows)
    return sum(r.tokens for r in rows) / max(sum(r.rows for r in rows) * row_tokens, 1)


def _sum_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total.most_common())


def _dropped_examples(ingested: StageResult) -> list[Tree]:
    examples: dict[tuple[str, str], list[Tree]] = {}
    for part, record in zip(ingested.parts, ingested.records, strict=True):
        for line in (ingested.folder / f"{part.name}.dropped.jsonl").read_text().splitlines():
            example = json.loads(line)
            kept = examples.setdefault((record["source"], example["reason"]), [])
            if len(kept) < 3:
                kept.append({"source": record["source"], **example})
    return [example for kept in examples.values() for example in kept]
