"""The report of a run: what was kept and dropped and why, as one HTML page and its data as JSON."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from data_prep.atomic import write_atomic
from data_prep.config import DataConfig
from data_prep.shards import Manifest
from data_prep.stages import Part, StageResult

Tree = dict[str, Any]


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
    sources = {}
    for name in config.sources:
        records = [r for r in results["ingest"].records if r["source"] == name]
        cleaned = [r for r in _records(results, "clean") if r["source"] == name]
        overlap = [
            record
            for part, record in _parts_and_records(results, "overlap")
            if part.name.rpartition("-")[0] == name
        ]
        rows = {split: manifest.splits[split][name] for split in manifest.splits}
        sources[name] = {
            "read_documents": sum(r["documents_read"] for r in records),
            "read_bytes": sum(r["bytes_read"] for r in records),
            "filtered_documents": sum(r["documents"] for r in records),
            "filtered_bytes": sum(r["bytes"] for r in records),
            "dropped": _sum_counts(r["dropped"] for r in [*records, *cleaned]),
            "removed_lines": sum(r["removed_lines"] for r in cleaned),
            "removed_line_bytes": sum(r["removed_bytes"] for r in cleaned),
            "scrubbed": _sum_counts(r["scrubbed"] for r in records),
            "contaminated_documents": sum(r["documents"] for r in overlap),
            "contaminated_bytes": sum(r["bytes"] for r in overlap),
            "bad": _sum_counts(r["bad"] for r in records),
            "bad_examples": [e for r in records for e in r["bad_examples"]][:10],
            **verdicts["sources"][name],
            "tokens": sum(split.tokens for split in rows.values()),
            "rows": {split: value.rows for split, value in rows.items()},
            "fill": _fill(rows.values(), manifest.row_tokens),
        }
    return {
        "sources": sources,
        "cluster_sizes": verdicts["cluster_sizes"],
        "stays_by_goes": verdicts["stays_by_goes"],
        "dropped_examples": _dropped_examples(results["ingest"]),
        "vocab_size": manifest.vocab_size,
        "row_tokens": manifest.row_tokens,
        "packing": manifest.packing,
        "fingerprint": manifest.fingerprint,
    }


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
    stages = [
        [
            name,
            *_amount(s["read_documents"], s["read_bytes"]),
            *_amount(s["filtered_documents"], s["filtered_bytes"]),
            *_amount(s["kept_documents"], s["kept_bytes"]),
            f"{s['tokens']:,}",
            f"{s['rows']['train']:,}",
            f"{s['rows']['heldout']:,}",
            f"{s['fill']:.1%}",
        ]
        for name, s in sources.items()
    ]
    reasons = sorted({reason for s in sources.values() for reason in s["dropped"]})
    reasons += sorted({f"bad record: {reason}" for s in sources.values() for reason in s["bad"]})
    dropped = [
        [reason, *(f"{_count(s, reason):,}" for s in sources.values())] for reason in reasons
    ]
    dropped += [
        [f"{word} duplicate", *(f"{s[f'{word}_documents']:,}" for s in sources.values())]
        for word in ("exact", "near")
    ]
    examples = [[e["source"], e["reason"], e["id"], e["text"]] for e in data["dropped_examples"]]
    parts = [
        "<h1>Data preparation</h1>",
        f"<p>{data['packing']}, rows of {data['row_tokens']} tokens, vocabulary of "
        f"{data['vocab_size']:,}. Manifest {data['fingerprint'][:16]}.</p>",
        "<h2>Sources through the stages</h2>",
        _table(
            [
                *("source", "read", "MB", "after filters", "MB", "after dedup", "MB", "tokens"),
                *("train rows", "held-out rows", "fill"),
            ],
            stages,
        ),
        "<h2>Dropped documents, by reason</h2>",
        _table(["reason", *sources], dropped),
        "<h2>Examples of dropped documents</h2>",
        _table(["source", "reason", "document", "begins"], examples),
    ]
    return _PAGE.format(body="\n".join(parts))


def _count(source: Tree, reason: str) -> int:
    bad = reason.removeprefix("bad record: ")
    counts = source["bad"] if bad != reason else source["dropped"]
    return int(counts.get(bad, 0))


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
</style></head><body>
{body}
</body></html>
"""
