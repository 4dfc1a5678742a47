"""The section of the report on what the filters measured, before any of them dropped a document:
for each source and filter a histogram, the limit as a line, and the share that it drops alone."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from configs.pages.bars import bars
from configs.pages.colours import colour
from data_prep.engine.stage import Record
from data_prep.filters.statistics import least_value, merged, next_value

_COLUMNS, _WIDTH, _HEIGHT, _LABELS = 40, 300, 70, 18
_CUT_SHARE = 0.005
"""Of the documents at each end of an axis, which are shown in its first and last column."""
_LOGARITHMIC = 100
"""Greatest value above which an axis is logarithmic."""
_MOST_LIMITS = 12
_MOST_LANGUAGES = 20

Tree = dict[str, Any]


def filter_values(records: Iterable[Record]) -> Tree:
    """The sum over the parts of a source, for report.json; empty where older records lack it."""
    total = merged(record["filter_values"] for record in records if "filter_values" in record)
    for values in total["filters"].values():
        values["bins"] = [
            [least_value(number), next_value(number), count] for number, count in values["bins"]
        ]
    return total


def filter_sections(sources: Mapping[str, Tree]) -> Iterator[str]:
    """The section, from the `filter_values` of all sources."""
    if not any(values["filters"] for values in sources.values()):
        return
    yield "<h2>What the filters measured</h2>"
    yield (
        "<p>Of all documents, before any filter drops one: the number of documents by value, the "
        "limit as a line, and the share that the filter would drop alone. Where limits depend on "
        "the language, there is a line for each. Costly values of documents that an earlier filter "
        "drops are estimated from a sample; values that are sure to be inside the limit may be "
        "counted as 0 (<code>filters.apply: false</code> measures all).</p>"
    )
    for name, values in sources.items():
        yield f"<h3>{escape(name)}</h3>"
        yield '<div class="charts">'
        # The first filter measures all documents.
        total = next((_num_judged(found) for found in values["filters"].values()), 0)
        yield from (_figure(reason, found, total) for reason, found in values["filters"].items())
        yield "</div>"
        languages = list(values["languages"].items())
        if languages:
            shown = dict(languages[:_MOST_LANGUAGES])
            rest = sum(count for _, count in languages[_MOST_LANGUAGES:])
            shown |= {"others": rest} if rest else {}
            yield "<p>Detected languages</p>"
            yield bars({code: {"documents": count} for code, count in shown.items()})


def _num_judged(values: Tree) -> int:
    """Documents with and without a value; where they come from a sample, only about as many."""
    judged: int = values["documents"] + values["without_value"]
    return judged


def _figure(reason: str, values: Tree, total: int) -> str:
    """The histogram of what one filter measured of a source of `total` documents."""
    measured, dropped = values["documents"], values["dropped_alone"]
    limits = [limit for limit, _ in values["limits"]]
    kind = "at least" if values["limit_is"] == "least" else "at most"
    shown = f"{kind} {_range(limits)}, drops alone {dropped / max(measured, 1):.1%}"
    if not limits:
        shown = "no limit"
    if values["without_value"]:
        shown += f"; {values['without_value']:,} without a value"
    # The weights of a sample may add up to more documents than there are.
    of = f"{measured:,}" if _num_judged(values) <= total else f"{total:,} (estimated)"
    caption = f"<b>{escape(reason)}</b><br>{escape(shown)} of {of}"
    return f"<figure>{_chart(values['bins'], limits)}<figcaption>{caption}</figcaption></figure>"


def _range(limits: Sequence[float]) -> str:
    if not limits:
        return ""
    low, high = min(limits), max(limits)
    return f"{low:,.6g}" if low == high else f"{low:,.6g} to {high:,.6g}"


def _chart(bins: Sequence[Sequence[float]], limits: Sequence[float]) -> str:
    """An inline SVG of the bins, (value nearest to 0, end of the bin, documents) each."""
    finite = sorted(
        (min(a, b), max(a, b), count)
        for a, b, count in bins
        if math.isfinite(a) and math.isfinite(b)
    )
    if not finite:
        return ""
    low, high = _axis(finite, limits)
    is_log = low >= 0 and high > _LOGARITHMIC

    def place(value: float) -> float:
        value = min(max(value, low), high)
        if is_log:
            return math.log1p(value - low) / math.log1p(high - low)
        return (value - low) / (high - low)

    columns = [0.0] * _COLUMNS
    for first, end, count in finite:
        _spread(columns, place(first) * _COLUMNS, place(end) * _COLUMNS, count)
    greatest = max(columns) or 1
    step = _WIDTH / _COLUMNS
    shapes = [
        f'<rect x="{n * step:.1f}" y="{_HEIGHT - height:.1f}" width="{step - 0.5:.1f}" '
        f'height="{height:.1f}" fill="{colour(0)}"/>'
        for n, count in enumerate(columns)
        if (height := count / greatest * _HEIGHT) > 0
    ]
    for limit in sorted(set(limits))[:_MOST_LIMITS]:
        x = place(limit) * _WIDTH
        shapes.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_HEIGHT}" stroke="{colour(3)}" '
            f'stroke-width="1.5"><title>limit {limit:,.6g}</title></line>'
        )
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        value = low + share * (high - low)
        if is_log:
            value = low + math.expm1(share * math.log1p(high - low))
        shapes.append(
            f'<text x="{share * _WIDTH:.0f}" y="{_HEIGHT + 13}" text-anchor="{anchor}">'
            f"{value:,.3g}</text>"
        )
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + _LABELS}" role="img">{"".join(shapes)}</svg>'


def _axis(
    bins: Sequence[tuple[float, float, float]], limits: Sequence[float]
) -> tuple[float, float]:
    """The least and the greatest value of an axis that shows most documents and the limits."""
    cut = _CUT_SHARE * sum(count for _, _, count in bins)
    seen, low = 0.0, bins[0][0]
    for first, _, count in bins:
        seen += count
        if seen > cut:
            low = first
            break
    seen, high = 0.0, bins[-1][1]
    for _, end, count in reversed(bins):
        seen += count
        if seen > cut:
            high = end
            break
    low, high = min([low, *limits]), max([high, *limits])
    return (low, high) if high > low else (low, low + 1)


def _spread(columns: list[float], start: float, end: float, count: float) -> None:
    """Adds `count` to the columns between two places, in proportion."""
    first, last = min(int(start), _COLUMNS - 1), min(int(end), _COLUMNS - 1)
    if first == last or end <= start:
        columns[first] += count
        return
    for number in range(first, last + 1):
        inside = min(end, number + 1) - max(start, number)
        columns[number] += count * max(inside, 0) / (end - start)
