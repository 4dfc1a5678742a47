"""The page of the report: tables and charts in one HTML file, from the report's data."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from configs.pages.bars import bars, histogram
from configs.pages.page import page_pieces
from configs.pages.table import table
from data_prep.report.accounts import CONTAMINATED, EXACT, NEAR, REMOVED_LINES, UNKNOWN
from data_prep.report.evaluation_sets import COLUMNS
from data_prep.report.filter_values import filter_sections
from data_prep.report.stage_costs import costs_section

Tree = dict[str, Any]
_MOST_REASONS = 30
LENGTH_LABELS = ["<128", *(f"{2**k}" for k in range(7, 10)), *(f"{2**k}K" for k in range(10))]
LENGTH_LABELS += ["1M", "≥2M"]
"""The least length of each class of `lengths`, bytes."""


def render(data: Tree) -> Iterator[str]:
    """The page, without external files, piece by piece: it grows with the number of sources."""
    return page_pieces("Data preparation", _parts(data))


def _parts(data: Tree) -> Iterator[str]:
    sources, accounts = data["sources"], data["accounts"]
    yield "<h1>Data preparation</h1>"
    yield (
        f"<p>{data['packing']}, rows of {data['row_tokens']} tokens, vocabulary of "
        f"{data['vocab_size']:,}. Manifest {data['fingerprint'][:16]}.</p>"
    )
    yield "<h2>Sources through the stages</h2>"
    yield _stages_table(sources)
    yield "<h3>Bytes kept and dropped, MB</h3>"
    yield bars({name: _megabytes(account) for name, account in accounts.items()}, " MB")
    yield "<h2>What became of the records</h2>"
    yield (
        "<p>Documents and bytes of text add up: those read are those kept and those dropped. Bad "
        "and skipped records gave no document.</p>"
    )
    yield _accounts_table(accounts)
    yield "<h2>Dropped documents by reason</h2>"
    yield bars(_by_reason(accounts))
    yield from filter_sections({name: source["filter_values"] for name, source in sources.items()})
    yield from _scrubbed(sources)
    yield from _duplicates(data)
    yield from _evaluation_sets(data)
    yield "<h2>Lengths of documents after the filters</h2>"
    yield histogram({name: s["lengths"] for name, s in sources.items()}, LENGTH_LABELS)
    yield from _tokens(data)
    yield from _examples(data)
    yield from costs_section(data["costs"])


def _scrubbed(sources: Mapping[str, Tree]) -> Iterator[str]:
    """The section on what was replaced by placeholders; none where nothing was."""
    kinds = list(dict.fromkeys(kind for source in sources.values() for kind in source["scrubbed"]))
    if kinds:
        yield "<h2>Replaced by placeholders</h2>"
        rows = [
            [name, *(f"{source['scrubbed'].get(kind, 0):,}" for kind in kinds)]
            for name, source in sources.items()
        ]
        yield table(["source", *kinds], rows)


def _duplicates(data: Tree) -> Iterator[str]:
    """The section on duplicates."""
    sources = data["sources"]
    yield "<h2>Duplicates</h2>"
    yield (
        "<p>Dropped documents by their source (columns) and the source of the document that is "
        "kept instead (rows).</p>"
    )
    rows = [
        [name, *(f"{count:,}" for count in row)]
        for name, row in zip(sources, data["stays_by_goes"], strict=True)
    ]
    yield table(["kept \\ dropped", *sources], rows)
    yield (
        f"<p>{data['compared']['candidates']:,} pairs of documents were compared; "
        f"{data['compared']['uncompared']:,} documents of very large candidate sets were not "
        "compared with all others of their set.</p>"
    )
    yield "<h3>Clusters by number of documents</h3>"
    yield bars({size: {"clusters": n} for size, n in _size_classes(data["cluster_sizes"]).items()})


def _evaluation_sets(data: Tree) -> Iterator[str]:
    """The section on decontamination; none where the run had no evaluation texts."""
    sets = data["evaluation_sets"]
    if sets:
        rows = [[name, *(f"{counts[key]:,}" for key in COLUMNS)] for name, counts in sets.items()]
        yield "<h2>Evaluation texts in the documents</h2>"
        yield table(["evaluation set", *COLUMNS.values()], rows)


def _tokens(data: Tree) -> Iterator[str]:
    """The section on tokens and rows."""
    sources, packed = data["sources"], data["packed"]
    yield "<h2>Tokens</h2>"
    yield "<h3>Tokens per white-space separated word (fertility)</h3>"
    yield bars({name: {"tokens": s["tokens_per_word"]} for name, s in sources.items()})
    yield "<h3>Bytes per token</h3>"
    yield bars({name: {"bytes": s["bytes_per_token"]} for name, s in sources.items()})
    yield from _extension(data)
    if unknown := {name: a["unknown_tokens"] for name, a in data["accounts"].items()}:
        yield "<h3>Tokens unknown to the tokenizer, whose text is lost</h3>"
        yield table(["source", "tokens"], [[name, f"{n:,}"] for name, n in unknown.items()])
    lacking = {
        n: a["without_order_key"] for n, a in data["accounts"].items() if "without_order_key" in a
    }
    if lacking:
        yield "<h3>Documents without the field of pack.order_by</h3>"
        yield table(["source", "documents"], [[name, f"{n:,}"] for name, n in lacking.items()])
    yield "<h3>Share of text tokens in the rows</h3>"
    yield bars({name: {"text": 100 * s["fill"]} for name, s in packed.items()}, " %")
    yield table(["rows", "train", "held out"], _row_counts(packed))


def _extension(data: Tree) -> Iterator[str]:
    """What the new tokens of an extended tokenizer save; nothing for other tokenizers."""
    if extension := data["extension"]:
        yield "<h3>Tokens per byte, before and after the tokenizer was extended</h3>"
        yield (
            f"<p>{data['vocab_size'] - extension['old_vocab_size']:,} new tokens; measured on "
            "held-out documents, or on a sample where none are held out.</p>"
        )
        rows = [
            [
                name,
                f"{n['bytes']:,}",
                f"{n['tokens_before'] / max(n['bytes'], 1):.4f}",
                f"{n['tokens_after'] / max(n['bytes'], 1):.4f}",
            ]
            for name, n in extension["fertility"].items()
        ]
        yield table(["source", "bytes", "before", "after"], rows)


def _examples(data: Tree) -> Iterator[str]:
    """The sections with examples: dropped documents, duplicates, bad records, repeated ids."""
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
    same_id = [
        [name, f"{source['repeated_ids']:,}", ", ".join(source["repeated_id_examples"])]
        for name, source in sources.items()
        if source["repeated_ids"]
    ]
    yield "<h2>Examples of dropped documents</h2>"
    yield table(["source", "reason", "document", "text"], dropped)
    yield "<h2>Examples of near-duplicates</h2>"
    yield table(["kept", "text", "dropped", "text"], near)
    yield "<h2>Records that could not be read</h2>"
    yield table(["source", "reason", "where", "detail"], bad) if bad else "<p>None.</p>"
    yield "<h2>Documents with the id of an earlier document</h2>"
    yield table(["source", "documents", "examples of ids"], same_id) if same_id else "<p>None.</p>"


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
    return table(head, rows)


def _row_counts(packed: Mapping[str, Tree]) -> list[list[str]]:
    return [
        [name, f"{entry['rows']['train']:,}", f"{entry['rows']['heldout']:,}"]
        for name, entry in packed.items()
    ]


def _accounts_table(accounts: Mapping[str, Tree]) -> str:
    """The rows of the table that a run prints at its end."""
    rows = []
    for name, account in accounts.items():
        of_files = f"of {account['file_bytes'] / 1e6:,.2f} MB of files"
        lines = [
            ("read", account["read"]),
            ("kept", account["kept"]),
            *((f"dropped: {reason}", a) for reason, a in account["dropped"].items()),
            *((f"bad record: {reason}", a) for reason, a in account["bad"].items()),
            *((f"skipped record: {kind}", a) for kind, a in account["skipped"].items()),
        ]
        rows += [[name, what, *_amount(a["documents"], a["bytes"])] for what, a in lines]
        for what, num_bytes in (
            (f"not read because of damage, {of_files}", account["not_read_bytes"]),
            (f"missing in {account['cut_files']} cut file(s), about", account["missing_bytes"]),
        ):
            if num_bytes:
                rows.append([name, what, "", _amount(0, num_bytes)[1]])
        if account["missing_bytes"] is None:
            rows.append([name, f"missing in {account['cut_files']} cut file(s): unknown", "", ""])
    return table(["source", "", "records", "MB"], rows)


def _megabytes(account: Tree) -> dict[str, float]:
    """MB kept and dropped; what the filters dropped is together."""
    later = (EXACT, NEAR, CONTAMINATED, REMOVED_LINES, UNKNOWN)
    amounts = {"kept": account["kept"]["bytes"]}
    filtered = 0
    for reason, amount in account["dropped"].items():
        if reason in later:
            amounts[reason] = amount["bytes"]
        else:
            filtered += amount["bytes"]
    return {name: num_bytes / 1e6 for name, num_bytes in {**amounts, "filtered": filtered}.items()}


def _by_reason(accounts: Mapping[str, Tree]) -> dict[str, dict[str, int]]:
    """Documents by reason, then source; the most frequent reason first, rare ones together."""
    reasons: dict[str, dict[str, int]] = {}
    for name, account in accounts.items():
        amounts = {
            **account["dropped"],
            **{f"bad record: {reason}": amount for reason, amount in account["bad"].items()},
        }
        for reason, amount in amounts.items():
            if amount["documents"]:
                reasons.setdefault(reason, {})[name] = amount["documents"]
    ranked = sorted(reasons.items(), key=lambda item: -sum(item[1].values()))
    shown, rest = dict(ranked[:_MOST_REASONS]), ranked[_MOST_REASONS:]
    if rest:
        rare: Counter[str] = Counter()
        for _, counts in rest:
            rare.update(counts)
        shown[f"{len(rest)} rarer reasons"] = dict(rare)
    return shown


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
