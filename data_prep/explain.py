"""Says what became of documents: ``python -m data_prep.explain CONFIG.yaml ID-or-FILE:OFFSET ...``.

Reads the work folder of a run, finished or not, and changes nothing. A document is named by its id,
or by its file and the place in it: the byte, in columnar files the row, in tables the line at which
its record starts.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from configs import command
from configs.load import UserError, load
from configs.terminal import visible, visible_name
from data_prep.config import DataConfig
from data_prep.documents.lookup import close_matches, examples, find, offsets_around
from data_prep.fates import Fate, fate_of
from data_prep.history import History, read_history

EXIT_UNKNOWN = 1
_MOST_OF_A_QUERY = 5
"""Records of one query that are printed as text."""


def main() -> int:
    """Prints what became of the documents; returns 1 if one is not known."""
    words = ("documents", "ID-or-FILE:OFFSET", "the id of a document, or where its record starts")
    parser = command.parser(__doc__ or "", words=words)
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.add_argument("--ids", metavar="FILE", help="a file of further ids, one per line")
    arguments = parser.parse_args()
    queries = list(arguments.documents)
    if arguments.ids:
        queries += _ids_in(Path(arguments.ids))
    if not queries:
        raise UserError("name at least one document: an id, or FILE:OFFSET")
    config = load(arguments.config, DataConfig, arguments.overrides)
    fates = explain(config, list(dict.fromkeys(queries)))
    if arguments.json:
        print(json.dumps(fates, indent=1))
    else:
        print(visible("\n\n".join("\n".join(_described(fate)) for fate in _shortened(fates))))
    return EXIT_UNKNOWN if any(fate["outcome"] == "unknown" for fate in fates) else 0


def explain(config: DataConfig, queries: Sequence[str]) -> list[Fate]:
    """What became of each document that `queries` name, see `data_prep.fates`; a query may name
    several. Of an unknown one (outcome ``unknown``), what resembles it.

    Raises UserError where there is no work folder, or it is damaged.
    """
    history = read_history(config)
    try:
        found = find(history.parts, queries)
        fates = []
        for query, records in found.items():
            same = {"same_name": len(records)} if len(records) > 1 else {}
            fates += [{"query": query, **fate_of(history, r), **same} for r in records]
            if not records:
                fates.append(_unknown(history, query))
    except (pa.ArrowInvalid, FileNotFoundError, EOFError) as error:
        raise UserError(
            f"{config.work}: damaged, or changed by a run at the same time: {error}; run data "
            "preparation again, which repairs the work folder"
        ) from None
    return fates


def _ids_in(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def _unknown(history: History, query: str) -> Fate:
    """What resembles a document that is not known."""
    parts = history.parts
    similar = [*offsets_around(parts, query), *close_matches(parts, query)]
    limits = {name: source.limit for name, source in history.run.config.sources.items()}
    return {
        "query": query,
        "outcome": "unknown",
        "close": [name for name in dict.fromkeys(similar) if name != query],
        "examples": examples(parts),
        "limits": {name: limit for name, limit in limits.items() if limit is not None},
        "without_ids": sorted(limits.keys() - history.run.config.sources_with_ids),
        "pending": history.pending if history.pending == "ingest" else None,
    }


def _shortened(fates: Sequence[Fate]) -> Iterator[Fate]:
    """The fates without most of those of a query that names very many records."""
    shown: Counter[str] = Counter()
    for fate in fates:
        shown[fate["query"]] += 1
        if shown[fate["query"]] <= _MOST_OF_A_QUERY:
            yield fate


def _described(fate: Fate) -> Iterator[str]:
    """The lines of a fate, for people."""
    if fate["outcome"] == "unknown":
        yield from _unknown_lines(fate)
        return
    yield visible_name(fate["query"])
    if fate["id"] is not None and fate["id"] != fate["query"]:
        yield f"  id {visible_name(fate['id'])}"
    member = f"!{fate['member']}" if fate.get("member") else ""
    yield (
        f"  read from {visible_name(fate['file'] + member)} at {fate['offset']:,}, source "
        + (fate["source"])
    )
    if "same_name" in fate:
        yield f"  one of {fate['same_name']:,} records of this name"
    if fate.get("removed_lines"):
        size = f"{fate['removed_bytes']:,} bytes"
        yield f"  {fate['removed_lines']:,} repeated lines ({size}) removed"
    outcome = _OUTCOMES[fate["outcome"]]
    yield from (f"  {line}" for line in outcome(fate))


def _unknown_lines(fate: Fate) -> Iterator[str]:
    yield f"{visible_name(fate['query'])}: not known"
    if fate["pending"]:
        yield "  the stage ingest is not finished: it may not have been read yet"
    for source, limit in fate["limits"].items():
        yield f"  source {source} is read up to its limit of {limit:,} documents"
    if fate["close"]:
        yield f"  similar: {', '.join(map(visible_name, fate['close']))}"
    for source, ids in fate["examples"].items():
        shown = ", ".join(map(visible_name, ids)) or "none"
        why = " (its reader has no id_field)" if source in fate["without_ids"] else ""
        yield f"  ids of source {source}{why}: {shown}, ..."


def _bad(fate: Fate) -> Iterator[str]:
    detail = f" ({visible_name(fate['detail'])})" if "detail" in fate else ""
    yield f"bad record: {visible_name(fate['reason'])}{detail}"


def _skipped(fate: Fate) -> Iterator[str]:
    yield f"skipped record: {visible_name(fate['reason'])}"


def _dropped(fate: Fate) -> Iterator[str]:
    measured = ""
    if "value" in fate:
        measured = f" ({fate['value']:,.4g}; the limit is {fate['limit']:,.4g})"
    yield f"dropped by {fate['stage']}: {visible_name(fate['reason'])}{measured}"
    for key, words in (
        ("duplicate_of", "of"),
        ("kept", "kept instead"),
        ("through", "joined through"),
    ):
        if key in fate:
            yield f"  {words} {_document(fate[key])}"
    for entry in fate.get("contaminated_by", ()):
        yield (
            f"  {entry['set']}: {entry['ngrams']:,} of its n-grams, {entry['share']:.1%} (limit "
            f"{fate['limit']:.1%})"
        )
        for text in entry["texts"]:
            yield f"    {visible_name(text['id'])}: {visible_name(text['text'][:80])!r}"


def _document(twin: Mapping[str, Any]) -> str:
    similarity = twin.get("similarity")
    similar = "" if similarity is None else f", estimated Jaccard similarity {similarity:.2f}"
    return f"{visible_name(twin['id'])} (source {twin['source']}{similar})"


def _pending(fate: Fate) -> Iterator[str]:
    split = f", {_SPLITS[fate['split']]}" if "split" in fate else ""
    yield f"kept so far{split}; the stage {fate['pending']} is not finished under this config"
    if "problem" in fate:
        yield f"  {fate['problem']}"


def _kept(fate: Fate) -> Iterator[str]:
    yield f"kept, {_SPLITS[fate['split']]}: {fate['tokens']:,} tokens"
    if not fate["rows"]:
        yield "  in no row"
    for shard in fate["shards"]:
        yield f"  rows {_ranges(shard['rows'])} of {shard['shard']}"
    if fate["rows"]:
        yield f"  rows {_ranges(fate['rows'])} of {fate['split']}/{fate['rows_of']}"


def _ranges(ranges: Sequence[Sequence[int]]) -> str:
    return ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in ranges)


_SPLITS = {"train": "trained on", "heldout": "held out"}
_OUTCOMES = {
    "bad": _bad,
    "skipped": _skipped,
    "dropped": _dropped,
    "pending": _pending,
    "kept": _kept,
}

if __name__ == "__main__":
    command.run(main)
