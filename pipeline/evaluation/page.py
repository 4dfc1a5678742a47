"""The page of an evaluation: tables and charts in one HTML file."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from configs.pages.dots import Dot, dot_chart
from configs.pages.legend import legend
from configs.pages.lines import Chart, Line, line_chart
from configs.pages.page import contents, page
from configs.pages.table import table
from configs.terminal import visible
from pipeline.evaluation.checks import (
    AS_TRAINED,
    EMBEDDINGS,
    FILL_MASK,
    HELDOUT,
    MINIMAL_PAIRS,
    SPEED,
)
from pipeline.evaluation.results import (
    Evaluation,
    Measure,
    ModelResults,
    best_of,
    quantity_of,
    size_of,
)

Rows = list[list[Measure | None]]

CHARTS: Mapping[str, tuple[str, ...]] = {
    HELDOUT: ("bits_per_byte", "word_accuracy"),
    MINIMAL_PAIRS: ("pair_accuracy", "phenomenon_accuracy"),
    FILL_MASK: ("top1", "top5", "answer_probability"),
    EMBEDDINGS: ("pair_auc", "nearest", "isoscore"),
    SPEED: ("tokens_per_s", "peak_memory_mb"),
    AS_TRAINED: ("heldout_loss", "heldout_accuracy"),
}
"""The measures of each check that are drawn."""
EXPLANATIONS: Mapping[str, str] = {
    AS_TRAINED: "What training records: each model on its own rows, masks and files. Losses per "
    "token can be compared between models of one tokenizer only.",
    HELDOUT: "The same words of the same texts are masked for all models; log-probabilities are "
    "divided by the bytes of these words, so tokenizers can be compared. Smaller bits per byte are "
    "better. Intervals: bootstrap over texts; texts of one document are alike, so that few "
    "documents say less than an interval seems to.",
    MINIMAL_PAIRS: "Share of pairs whose good sentence has the higher pseudo-log-likelihood; "
    "guessing gives 50 %. Intervals: Wilson.",
    FILL_MASK: "Answers in gaps of texts. Ranks are of answers of one token.",
    EMBEDDINGS: "AUC: how often a paraphrase is closer than another pair, by cosine; guessing "
    "gives 0.5. IsoScore (Rudman et al. 2022): 1 if the vectors use all dimensions equally, 0 if "
    "one; it rises with the number of texts until they are many more than dimensions.",
    SPEED: "The encoder's forward pass on full rows, on the machine named above, with what else "
    "ran there. Ranges: slowest and fastest repeat.",
}
MIN_STEPS = 3
"""Checkpoints of one run from which curves over steps are drawn."""
MAX_CHART_ROWS = 40


def render(evaluation: Evaluation) -> str:
    """The page, without external files."""
    sections = evaluation.sections()
    names = [model.name for model in evaluation.models]
    title = "Evaluation of " + ", ".join(names)
    ids = {check: check.replace(" ", "-") for check in sections}
    parts = [
        f"<h1>{escape(title)}</h1>",
        contents([("models", "models"), *((ids[check], check) for check in sections)]),
        *_facts(evaluation),
        *_models(evaluation.models),
    ]
    for check, rows in sections.items():
        parts.append(f'<h2 id="{ids[check]}">{escape(check[0].upper() + check[1:])}</h2>')
        parts.append(f"<p>{escape(EXPLANATIONS.get(check, ''))}</p>")
        parts += _charts(check, rows, evaluation.models)
        parts.append(_measures_table(rows, names))
        parts += _remarks(check, evaluation.models)
    return visible(page(title, parts))


def _facts(evaluation: Evaluation) -> Iterator[str]:
    facts = evaluation.facts
    commit = str(facts["git_commit"])[:12] + (" with changes" if facts["git_dirty"] else "")
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    yield (
        f'<p class="quiet">{escape(facts["started"])}, {facts["seconds"]:,.0f} s in '
        f"{escape(facts['precision'])} on {escape(str(facts['processor']))} "
        f"({escape(str(facts['device']))}, {facts['threads']} threads). Code {escape(commit)}; "
        f"{escape(versions)}. Evaluation {evaluation.fingerprint[:16]}.</p>"
    )
    for note in facts["notes"]:
        yield f'<p class="warning">{escape(note)}</p>'
    if texts := facts["texts"]:
        of = texts.get("rows") or ", ".join(texts.get("files", ()))
        sources = ", ".join(
            f"{name} ({size['texts']:,} texts of about {size['documents']:,} documents, "
            f"{size['bytes']:,} bytes)"
            for name, size in texts["sources"].items()
        )
        yield f"<p>Texts of {escape(str(of))}: {escape(sources)}.</p>"


def _models(models: Sequence[ModelResults]) -> Iterator[str]:
    head = ["model", "what", "path", "parameters", "vocabulary", "longest row", "step", "sha256"]
    rows = [
        [
            model.name,
            str(model.origin["kind"]),
            str(model.origin["path"]),
            f"{model.origin['parameters']:,}",
            f"{model.origin['vocab_size']:,}",
            f"{model.origin['max_row_tokens']:,}",
            f"{model.origin['step']:,}" if "step" in model.origin else "–",
            str(model.origin["sha256"])[:12],
        ]
        for model in models
    ]
    yield '<h2 id="models">Models</h2>'
    yield table(head, rows, row_headers=True)


def _charts(check: str, rows: Rows, models: Sequence[ModelResults]) -> Iterator[str]:
    """Dots of each drawn measure by group; curves for checkpoints of one run."""
    names = [model.name for model in models]
    figures = []
    for quantity in CHARTS.get(check, ()):
        of_it = [row for row in rows if any(one and one.name == quantity for one in row)]
        # One row for all is in the table already; its groups are what is worth a chart.
        groups = [row for row in of_it if _first(row).group] or of_it
        steps = _over_steps(quantity, of_it[0], models) if of_it else None
        if steps is not None:
            figures.append(steps)
        if groups and (len(groups) > 1 or len(models) > 1):
            dots = {_first(row).group or "all": _dots(row) for row in groups[:MAX_CHART_ROWS]}
            more = len(groups) - MAX_CHART_ROWS
            caption = f"{more} more in the table" if more > 0 else ""
            figures.append(dot_chart(quantity_of(quantity).title, dots, names, caption))
    if figures:
        yield legend(names) if len(names) > 1 else ""
        yield f'<div class="plots">{"".join(figures)}</div>'


def _dots(row: Sequence[Measure | None]) -> list[Dot | None]:
    return [
        Dot(one.value, one.shown, one.low, one.high)
        if one is not None and math.isfinite(one.value)
        else None
        for one in row
    ]


def _over_steps(
    quantity: str, row: Sequence[Measure | None], models: Sequence[ModelResults]
) -> str | None:
    """The measure over the steps of each run of which enough checkpoints are evaluated."""
    points: dict[str, list[tuple[int, Measure]]] = {}
    for one, model in zip(row, models, strict=True):
        if one is not None and "run" in model.origin and math.isfinite(one.value):
            points.setdefault(str(model.origin["run"]), []).append((model.origin["step"], one))
    lines = []
    for name, found in points.items():
        if len({step for step, _ in found}) < MIN_STEPS:
            continue
        ordered = sorted(found, key=lambda point: point[0])
        has_ends = all(one.low is not None and one.high is not None for _, one in ordered)
        lines.append(
            Line(
                name,
                [step for step, _ in ordered],
                [one.value for _, one in ordered],
                low=[one.low or 0.0 for _, one in ordered] if has_ends else None,
                high=[one.high or 0.0 for _, one in ordered] if has_ends else None,
            )
        )
    return line_chart(Chart(quantity_of(quantity).title, lines)) if lines else None


def _measures_table(rows: Rows, names: Sequence[str]) -> str:
    body = []
    for row in rows:
        one, best = _first(row), best_of(row)
        cells = [
            "–" if each is None else each.shown + " *" * (n in best) for n, each in enumerate(row)
        ]
        body.append([quantity_of(one.name).title, one.group, *size_of(row), *cells])
    legend_text = (
        '<p class="quiet">n: what a figure is over; documents: about how many that is of. * the '
        "best of a row; ± half of the interval.</p>"
    )
    head = ["measure", "of", "n", "documents", *names]
    return table(head, body, row_headers=True) + legend_text


def _remarks(check: str, models: Sequence[ModelResults]) -> Iterator[str]:
    for model in models:
        found = model.checks.get(check)
        if found is None:
            continue
        for reason, count in found.left_out.items():
            text = f"{model.name}: left out: {count:,} {reason}"
            yield f'<p class="quiet">{escape(text)}</p>'
    notes = (
        note for model in models if check in model.checks for note in model.checks[check].notes
    )
    for note in dict.fromkeys(notes):  # several checkpoints of a run have the same rows
        yield f'<p class="warning">{escape(note)}</p>'


def _first(row: Sequence[Measure | None]) -> Measure:
    return next(one for one in row if one is not None)
