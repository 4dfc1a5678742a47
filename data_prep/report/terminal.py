"""What was read, kept and dropped, for a terminal and for logs: a table at the end of a run, and a
line for each stage."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

from configs.terminal import visible_name
from data_prep.documents.losses import encoding_hint
from data_prep.engine.stage import Record
from data_prep.report.accounts import Account, Amount
from data_prep.report.evaluation_sets import sets_table

WIDTH = 100
"""Most columns of a line."""
_LABEL, _MOST_REASONS = 58, 12
_HEAD = f"{'':<{_LABEL}}{'documents':>14}{'MB':>14}{'share':>10}"


def end_of_run(output: Path) -> str:
    """The table of a finished data set, from its report.json; says so where there is none."""
    path = output / "report.json"
    try:
        report = json.loads(path.read_bytes())
        sources = report["accounts"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{visible_name(path)}: no account of the sources (made by an older version)"
    return "\n".join([*table(sources), *sets_table(report.get("evaluation_sets", {}))])


def table(sources: Mapping[str, Account]) -> Iterator[str]:
    """The lines of the table; shares are of the documents read."""
    yield _HEAD
    for name, account in sources.items():
        read = account["read"]
        yield _line(name, read, read)
        yield _line("  kept", account["kept"], read)
        yield from _lines("dropped: ", account["dropped"], read)
        yield from _lines("bad record: ", account["bad"])
        yield from _lines("skipped record: ", account["skipped"])
        yield from _notes(account)


def _lines(prefix: str, amounts: Mapping[str, Amount], read: Amount | None = None) -> Iterator[str]:
    ranked = list(amounts.items())
    for reason, amount in ranked[:_MOST_REASONS]:
        yield _line(f"  {prefix}{reason}", amount, read)
    rest = [amount for _, amount in ranked[_MOST_REASONS:]]
    if rest:
        total = {key: sum(amount[key] for amount in rest) for key in ("documents", "bytes")}
        yield _line(f"  {prefix}{len(rest)} rarer reasons", total, read)


def _line(label: str, amount: Amount, read: Amount | None) -> str:
    share = ""
    if read is not None and read["documents"]:
        share = f"{amount['documents'] / read['documents']:.1%}"
    documents, megabytes = f"{amount['documents']:,}", f"{amount['bytes'] / 1e6:,.2f}"
    return f"{_fitted(label)}{documents:>14}{megabytes:>14}{share:>10}".rstrip()


def _notes(account: Account) -> Iterator[str]:
    """What is not an amount of records."""
    if account.get("likely_encoding"):  # a report of an earlier version lacks it
        yield f"  {encoding_hint(account['likely_encoding'])}"
    of_files = f" of {account['file_bytes'] / 1e6:,.2f} MB of files"
    if account["not_read_bytes"]:
        size = f"{account['not_read_bytes']:,} bytes"
        yield f"  not read because of damage: {size}{of_files}"
    if account["cut_files"]:
        missing = account["missing_bytes"]
        lacks = "not known" if missing is None else f"about {missing:,} bytes{of_files}"
        yield f"  {account['cut_files']:,} file(s) cut short; missing: {lacks}"
    if account["repeated_ids"]:
        yield f"  {account['repeated_ids']:,} documents have the id of an earlier one"
    if account["without_tokens"]:
        yield f"  {account['without_tokens']:,} kept documents have no token, and are in no row"
    beyond = account.get("beyond_max_tokens", {"documents": 0})  # older reports lack it
    if beyond["documents"]:
        amount = f"{beyond['documents']:,} kept documents ({beyond['tokens']:,} tokens)"
        yield f"  {amount} are beyond max_tokens, and in no row"
    if account.get("without_order_key"):
        number = f"{account['without_order_key']:,}"
        yield f"  {number} kept documents lack the field of pack.order_by, and are packed last"
    if account.get("unknown_tokens"):  # a report of an earlier version lacks it
        yield f"  {account['unknown_tokens']:,} tokens are unknown: the text in their place is lost"


def _fitted(label: str) -> str:
    """`label` in exactly _LABEL columns, without control characters."""
    label = visible_name(label)
    while _columns(label) > _LABEL - 1:
        label = label.removesuffix("…")[:-1] + "…"
    return label + " " * (_LABEL - _columns(label))


def _columns(text: str) -> int:
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


_NOT_COUNTS = ("outputs", "costs")
"""What records hold besides counts of documents."""


def stage_line(name: str, records: Iterable[Record]) -> str:
    """What a finished stage did, with its counts, from the records of its parts."""
    totals: Counter[str] = Counter()
    num_parts = 0
    for record in records:
        num_parts += 1
        counts = {key: value for key, value in record.items() if key not in _NOT_COUNTS}
        for key, value in counts.items():
            if isinstance(value, dict):
                totals[key] += sum(count for _, count in _counts(value))
        for key, count in _counts(counts):
            totals[key] += count
    words = _STAGES[name](totals) if name in _STAGES else ""
    return ", ".join([*([words] if words else []), f"{num_parts:,} part(s)"])


def _counts(tree: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The counts at any depth of a record, each with its own key."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _counts(value)
        elif isinstance(value, int):
            yield key, value


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"


def _ingest(totals: Counter[str]) -> str:
    words = (
        f"{totals['documents_read']:,} documents ({_mb(totals['bytes_read'])}) read, "
        f"{totals['documents']:,} ({_mb(totals['bytes'])}) kept by the filters, "
        f"{totals['bad']:,} bad records"
    )
    if totals["skipped"]:
        words += f", {totals['skipped']:,} skipped"
    if totals["not_read_bytes"]:
        words += f", {totals['not_read_bytes']:,} bytes not read because of damage"
    return words


def _pairs(totals: Counter[str]) -> str:
    return f"{totals['candidates']:,} pairs compared, {totals['pairs']:,} joined"


FEW_HELD_OUT = 20
"""Documents; a held-out loss of fewer says little."""
_STAGES: dict[str, Callable[[Counter[str]], str]] = {
    "ingest": _ingest,
    "ids": lambda n: f"{n['documents']:,} ids",
    "repeated_ids": lambda n: f"{n['repeated']:,} documents have the id of an earlier one",
    "line_counts": lambda n: f"{n['lines']:,} different lines, file by file",
    "line_repeats": lambda n: f"{n['repeated_lines']:,} lines in too many documents",
    "clean": lambda n: (
        f"{n['removed_lines']:,} lines ({_mb(n['removed_bytes'])}) removed, "
        f"{n['dropped']:,} documents dropped"
    ),
    "signatures": lambda n: f"{n['documents']:,} documents",
    "first_pairs": _pairs,
    "clusters": lambda n: f"{n['joined']:,} duplicates joined",
    "pairs": _pairs,
    "all_clusters": lambda n: f"{n['duplicates']:,} duplicates joined",
    "verdicts": lambda n: (
        f"{n['kept_documents']:,} documents kept, {n['exact_documents']:,} exact and "
        f"{n['near_documents']:,} near duplicates dropped"
    ),
    "excluded_ngrams": lambda n: (
        f"{n['texts']:,} texts with {n['ngrams']:,} n-grams; {n['short_texts']:,} shorter texts to "
        f"match whole, {n['too_short']:,} too short to look for"
    ),
    "exclusion": lambda n: f"{n['ngrams']:,} different n-grams and short texts",
    "overlap": lambda n: f"{n['documents']:,} documents ({_mb(n['bytes'])}) dropped",
    "tokenizer": lambda n: (
        f"{n['tokens_after'] / n['bytes']:.4f} tokens per byte, "
        f"{n['tokens_before'] / n['bytes']:.4f} before the extension"
        if n["bytes"]
        else ""
    ),
    "encode": lambda n: (
        f"{n['train_documents']:,} documents with {n['train_tokens']:,} tokens to train on, "
        f"{n['heldout_documents']:,} with {n['heldout_tokens']:,} held out"
        + ("" if n["heldout_documents"] >= FEW_HELD_OUT else " (few: see heldout_share)")
    ),
    "order_keys": lambda n: f"{n['documents']:,} documents, {n['without_key']:,} without the field",
    "order_runs": lambda n: f"{n['documents']:,} documents",
    "order": lambda n: f"{n['documents']:,} documents",
    "interleave": lambda n: f"{n['documents']:,} documents",
    "layout": lambda n: f"{n['pieces']:,} pieces in {n['rows']:,} rows" if n["rows"] else "",
    "rows": lambda n: f"{n['rows']:,} rows, {_mb(n['bytes'])}",
}
