"""Writes the results of the studies into docs/quality.md, between markers, and draws its pictures.

A block of the page is ``<!-- results: NAME -->`` to ``<!-- end -->``; the text around it is written
by hand. Numbers are means or medians over seeds with the lowest and the highest.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks.learning_studies import (
    ablations,
    continued,
    data_quality,
    few_labels,
    pictures,
    pretraining,
)
from benchmarks.learning_studies.linear import SAME_TEXT, WHOLE_TEXT
from benchmarks.learning_studies.readings import losses, spread, test_scores, verdict
from benchmarks.learning_studies.results import Results, Values
from benchmarks.learning_studies.tasks import TASKS
from configs.load import UserError
from data_prep.dataset.atomic import write_atomic

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "quality.md"
MISSING = "*Not run yet.*"
QUESTIONS = {
    "static and dynamic masks": ("one-source-static", "one-source-dynamic"),
    "rows of one document and running on": ("doc-sentences", "base"),
    "mask 15 % and 30 %": ("mask-15", "base"),
    "mask 40 % and 30 %": ("mask-40", "base"),
    "256 and 2,048 rows a step": ("batch-256", "batch-2048"),
    "learned and rotary positions": ("learned-positions", "base"),
    "AdamW and Muon": ("adamw-2e-3 adamw-4e-3", "base"),
}
"""What is compared: two variants, or lists of which the better one counts."""


def write(folder: Path, page: Path) -> None:
    """Replaces every block of `page` by the results in `folder`; draws the pictures beside it."""
    blocks: dict[str, Callable[[], str]] = {
        "pretraining": lambda: pretraining_table(Results(folder, pretraining.STUDY)),
        "few-labels": lambda: task_table(Results(folder, few_labels.STUDY)) or MISSING,
        "ablations": lambda: ablation_table(Results(folder, ablations.STUDY).all()),
        "data": lambda: data_table(
            Results(folder, data_quality.STUDY).all(), Results(folder, ablations.STUDY).all()
        ),
        "continued": lambda: continued_table(Results(folder, continued.STUDY).all()),
    }
    text = page.read_text(encoding="utf-8")
    drawn = pictures.draw_all(folder, page.parent / "images")
    for name, table in blocks.items():
        picture = f"\n\n{drawn[name]}" if name in drawn else ""
        text = replaced(text, name, table() + picture, page)
    write_atomic(page, text)


def replaced(text: str, name: str, table: str, page: Path) -> str:
    """`text` with the block `name` replaced; UserError if it has none."""
    pattern = re.compile(rf"(<!-- results: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(text):
        raise UserError(f"{page}: no block <!-- results: {name} --> ... <!-- end -->")
    return pattern.sub(lambda match: f"{match[1]}\n{table}\n\n{match[2]}", text, count=1)


def table_of(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def pretraining_table(results: Results) -> str:
    """What the pretraining reached, and the test accuracy of every task, %."""
    parts = [encoder_line(results.get("encoder")), task_table(results)]
    return "\n\n".join(part for part in parts if part)


def task_table(results: Results) -> str:
    """Test accuracy of every task, %, from every start; empty without results."""
    if not any(name.startswith(tuple(TASKS)) for name in results.all()):
        return ""
    rows = []
    for name in TASKS:
        linear = results.get(f"linear-{name}") or {}
        scores = {start: test_scores(results, name, start) for start in pretraining.STARTS}
        gain = "-"
        if all(scores.values()):
            gain = f"{100 * (median(scores['pretrained']) - median(scores['scratch'])):+.1f}"
        rows.append(
            [
                name,
                *(spread(scores[start], 100, 1) for start in pretraining.STARTS),
                gain,
                *(
                    f"{100 * linear[text]:.1f}" if text in linear else "-"
                    for text in (SAME_TEXT, WHOLE_TEXT)
                ),
                str(min(len(found) for found in scores.values())),
            ]
        )
    header = ["task", "pretrained", "from random weights", "difference", "linear model"]
    header += ["linear model, whole texts", "seeds"]
    return table_of(header, rows)


def encoder_line(encoder: Values | None) -> str:
    """What the pretraining reached, as a sentence."""
    if encoder is None:
        return MISSING
    return (
        f"Pretraining: {encoder['rows']:,} rows of 128 tokens, {encoder['cpu_s'] / 3600:.1f} CPU "
        f"hours, held-out loss {encoder['heldout_loss']:.2f} nats per masked token (30 % masks; "
        f"unigram {encoder['unigram_loss']:.2f}), {encoder['heldout_accuracy']:.1%} right."
    )


def ablation_table(results: Mapping[str, Values]) -> str:
    """Held-out losses of every comparison."""
    rows = []
    for question, (first, second) in QUESTIONS.items():
        pair = losses(results, first), losses(results, second)
        if all(pair):
            rows.append([question, *(spread(values) for values in pair), verdict(*pair)])
    if not rows:
        return MISSING
    return table_of(["first and second", "first", "second", "better"], rows)


def data_table(results: Mapping[str, Values], base: Mapping[str, Values]) -> str:
    """Held-out losses on the clean corpus' rows, by what was trained on."""
    rows = [["filters and deduplication", spread(losses(base, "base"))]]
    names = {"no-dedup": "no deduplication", "no-filters": "no filters", "neither": "neither"}
    rows += [[label, spread(losses(results, name))] for name, label in names.items()]
    return table_of(["corpus", "held-out loss"], rows) if len(results) > 1 else MISSING


def continued_table(results: Mapping[str, Values]) -> str:
    """Rows to the loss, and the tasks before and after."""
    if "rows" not in results:
        return MISSING
    needed = results["rows"]
    share = needed["continued_rows"] and needed["continued_rows"] / needed["scratch_rows"]
    best = continued.best_scratch(results)
    scratch = ", ".join(
        f"{results[name]['heldout_loss']:.3f} (learning rate {rate:g})"
        for name, rate in continued.LEARNING_RATES.items()
        if name.startswith("scratch-") and name in results
    )
    text = (
        f"From random weights, {needed['scratch_rows']:,} rows: loss {scratch}; unigram "
        f"{results[best]['unigram_loss']:.3f}. "
        + (
            f"Continued: the lowest of these after {share:.0%} of the rows."
            if share
            else "Continued: not reached."
        )
        + f" Last loss of the continued run: {results['continued']['heldout_loss']:.3f}."
    )
    rows = [
        [
            name,
            *(spread(_tests(results, f"{name}-{kind}-"), 100, 1) for kind in ("before", "after")),
        ]
        for name in TASKS
        if _tests(results, f"{name}-before-")
    ]
    return f"{text}\n\n{table_of(['task', 'before', 'after'], rows)}" if rows else text


def _tests(results: Mapping[str, Values], prefix: str) -> list[float]:
    return [float(values["test"]) for key, values in results.items() if key.startswith(prefix)]
