"""The table of an evaluation for the terminal."""

from collections.abc import Iterator

from pipeline.evaluation.results import Evaluation, best_of, quantity_of, size_of

MAX_GROUPS = 12
"""Groups of a measure (files, phenomena) that the terminal shows; the files have all."""


def table(evaluation: Evaluation) -> str:
    """The measures by check, with what they are over, and a column for each model; ``*`` marks the
    best of several."""
    names = [model.name for model in evaluation.models]
    lines: list[tuple[str, list[str]]] = []
    for check, rows in evaluation.sections().items():
        sizes = [size_of(row) for row in rows]
        lines.append((check, ["n", "documents" * any(of for _, of in sizes), *names]))
        shown: dict[str, int] = {}
        hidden = 0
        for size, row in zip(sizes, rows, strict=True):
            one = next(each for each in row if each is not None)
            shown[one.name] = shown.get(one.name, 0) + 1
            if shown[one.name] > MAX_GROUPS:
                hidden += 1
                continue
            best = best_of(row)
            title = quantity_of(one.name).title + f": {one.group}" * bool(one.group)
            cells = [
                "-" if each is None else each.shown + (" *" if n in best else "  ")
                for n, each in enumerate(row)
            ]
            lines.append((f"  {title}", [*size, *cells]))
        if hidden:
            lines.append((f"  and {hidden} more in evaluation.json", []))
    return "\n".join([*_aligned(lines), *_remarks(evaluation)])


def _aligned(lines: list[tuple[str, list[str]]]) -> Iterator[str]:
    first = max((len(title) for title, _ in lines), default=0)
    num_columns = max((len(cells) for _, cells in lines), default=0)
    widths = [
        max(len(cells[n].rstrip(" *")) for _, cells in lines if n < len(cells))
        for n in range(num_columns)
    ]
    for title, cells in lines:
        columns = []
        for width, cell in zip(widths, cells, strict=False):
            text = cell.rstrip(" *")
            columns.append(text.rjust(width) + (" *" if cell.endswith("*") else "  "))
        yield f"{title.ljust(first)}  {'  '.join(columns)}".rstrip()


def _remarks(evaluation: Evaluation) -> Iterator[str]:
    """What was left out, and what a reader has to know."""
    for model in evaluation.models:
        for name, check in model.checks.items():
            for reason, count in check.left_out.items():
                yield f"left out, {model.name}, {name}: {count:,} {reason}"
    for reason, count in evaluation.facts.get("texts", {}).get("left_out", {}).items():
        yield f"left out of the texts: {count:,} {reason}"
    notes = [note for m in evaluation.models for check in m.checks.values() for note in check.notes]
    for note in dict.fromkeys([*evaluation.facts.get("notes", ()), *notes]):
        yield f"note: {note}"
