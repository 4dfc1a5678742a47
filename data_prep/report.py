"""The report of a run: what was kept and dropped and why, as one HTML page and its data as JSON."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.atomic import write_atomic
from data_prep.charts import bars, histogram
from data_prep.config import DataConfig
from data_prep.ingest import document_ids, read_texts
from data_prep.shards import Manifest
from data_prep.stages import Part, StageResult

Tree = dict[str, Any]
_EXAMPLE_BYTES = 300
_LENGTH_LIMITS = 1 << np.arange(7, 22)
LENGTH_LABELS = ["<128", *(f"{2**k}" for k in range(7, 10)), *(f"{2**k}K" for k in range(10))]
LENGTH_LABELS += ["1M", "≥2M"]
"""The least length of each class of `lengths`, bytes."""


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
    documents = results.get("clean", results["ingest"])
    return {
        "sources": {name: _source_data(name, results, manifest) for name in config.sources},
        "packed": {name: _packed_data(name, manifest) for name in manifest.splits["train"]},
        "cluster_sizes": verdicts["cluster_sizes"],
        "stays_by_goes": verdicts["stays_by_goes"],
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
        for stage in ("ingest", "clean", "overlap", "encode", "signatures")
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
        "bad_examples": [e for r in records for e in r["bad_examples"]][:10],
        **results["verdicts"].records[0]["sources"][name],
        "lengths": _lengths(name, results["signatures"]),
        "tokens": tokens,
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
    return part.name.rpartition("-")[0] == source


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


def render(data: Tree) -> str:
    """The page, with nothing to load from elsewhere."""
    sources = data["sources"]
    dropped = [[e["source"], e["reason"], e["id"], e["text"]] for e in data["dropped_examples"]]
    near = [
        [e["stays"]["id"], e["stays"]["text"], e["goes"]["id"], e["goes"]["text"]]
        for e in data["near_examples"]
    ]
    bad = [
        [name, e["reason"], f"{e['file']}:{e['offset']}", e["detail"]]
        for name, source in sources.items()
        for e in source["bad_examples"]
    ]
    parts = [
        "<h1>Data preparation</h1>",
        f"<p>{data['packing']}, rows of {data['row_tokens']} tokens, vocabulary of "
        f"{data['vocab_size']:,}. Manifest {data['fingerprint'][:16]}.</p>",
        "<h2>Sources through the stages</h2>",
        _stages_table(sources),
        "<h3>Where the bytes went, MB</h3>",
        bars({name: _megabytes(source) for name, source in sources.items()}, " MB"),
        "<h2>Dropped documents, by reason</h2>",
        bars(_by_reason(sources)),
        "<h2>Duplicates</h2>",
        "<p>Documents that went (columns) because one of another or the same source (rows) stayed."
        "</p>",
        _table(
            ["stays \\ goes", *sources],
            [
                [name, *(f"{count:,}" for count in row)]
                for name, row in zip(sources, data["stays_by_goes"], strict=True)
            ],
        ),
        "<h3>Clusters, by their number of documents</h3>",
        bars({size: {"clusters": n} for size, n in _size_classes(data["cluster_sizes"]).items()}),
        "<h2>Lengths of documents after the filters</h2>",
        histogram({name: s["lengths"] for name, s in sources.items()}, LENGTH_LABELS),
        "<h2>Tokens</h2>",
        "<h3>Bytes a token</h3>",
        bars({name: {"bytes": s["bytes_per_token"]} for name, s in sources.items()}),
        "<h3>Share of the rows' ids that are text</h3>",
        bars({name: {"text": 100 * s["fill"]} for name, s in data["packed"].items()}, " %"),
        _table(["rows", "train", "held out"], _row_counts(data["packed"])),
        "<h2>Examples of dropped documents</h2>",
        _table(["source", "reason", "document", "begins"], dropped),
        "<h2>Examples of near duplicates</h2>",
        _table(["stays", "begins", "goes", "begins"], near),
        "<h2>Records that could not be read</h2>",
        _table(["source", "reason", "where", "detail"], bad) if bad else "<p>None.</p>",
    ]
    return _PAGE.format(body="\n".join(parts))


def _stages_table(sources: Mapping[str, Tree]) -> str:
    head = ["source", "read", "MB", "after filters", "MB", "after dedup", "MB", "contaminated"]
    head += ["tokens"]
    rows = [
        [
            name,
            *_amount(s["read_documents"], s["read_bytes"]),
            *_amount(s["filtered_documents"], s["filtered_bytes"]),
            *_amount(s["kept_documents"], s["kept_bytes"]),
            f"{s['contaminated_documents']:,}",
            f"{s['tokens']:,}",
        ]
        for name, s in sources.items()
    ]
    return _table(head, rows)


def _row_counts(packed: Mapping[str, Tree]) -> list[list[str]]:
    return [
        [name, f"{entry['rows']['train']:,}", f"{entry['rows']['heldout']:,}"]
        for name, entry in packed.items()
    ]


def _megabytes(source: Tree) -> dict[str, float]:
    return {
        "kept": (source["kept_bytes"] - source["contaminated_bytes"]) / 1e6,
        "exact duplicates": source["exact_bytes"] / 1e6,
        "near duplicates": source["near_bytes"] / 1e6,
        "contaminated": source["contaminated_bytes"] / 1e6,
        "filtered": (source["read_bytes"] - source["filtered_bytes"]) / 1e6,
    }


def _by_reason(sources: Mapping[str, Tree]) -> dict[str, dict[str, float]]:
    """Documents by reason, then source; the most frequent reason first."""
    reasons: dict[str, dict[str, float]] = {}
    for name, source in sources.items():
        counts = {
            **source["dropped"],
            **{f"bad record: {reason}": n for reason, n in source["bad"].items()},
            "exact duplicate": source["exact_documents"],
            "near duplicate": source["near_documents"],
            "overlaps evaluation text": source["contaminated_documents"],
        }
        for reason, count in counts.items():
            if count:
                reasons.setdefault(reason, {})[name] = count
    return dict(sorted(reasons.items(), key=lambda item: -sum(item[1].values())))


def _size_classes(sizes: Mapping[str, int]) -> dict[str, int]:
    classes: dict[str, int] = {}
    for size, count in sorted((int(size), count) for size, count in sizes.items()):
        power = size.bit_length() - 1
        low, high = 1 << power, (2 << power) - 1
        label = str(size) if size < 4 else f"{low} to {high}"
        classes[label] = classes.get(label, 0) + count
    return classes


def _amount(documents: int, num_bytes: int) -> tuple[str, str]:
    return f"{documents:,}", f"{num_bytes / 1e6:,.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line(head, "th") + "".join(line(row, "td") for row in rows) + "</table>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Data preparation</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 75rem;
        margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; margin: .5rem 0 1.5rem; }}
th, td {{ padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: right; }}
th:first-child, td:first-child, td:last-child {{ text-align: left; }}
td {{ max-width: 26rem; overflow-wrap: anywhere; vertical-align: top; }}
svg {{ display: block; max-width: 60rem; margin: .5rem 0 1.5rem; }}
svg text {{ font-size: 12px; }}
.legend span {{ margin-right: 1.2rem; }}
.legend i {{ display: inline-block; width: .8rem; height: .8rem; margin-right: .3rem; }}
</style></head><body>
{body}
</body></html>
"""
