"""The tables of a report: results, differences of runs, data, start weights, settings."""

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from configs.pages.table import table
from pipeline.reporting.catalogue import is_better_if_lower, is_score
from pipeline.reporting.charts import run_names
from pipeline.reporting.curve import Curve
from pipeline.reporting.run_record import RunRecord
from pipeline.reporting.timeline import duration_text, time_text
from pipeline.reporting.values import NONE, number, shown
from pipeline.tracking.mixture import describe_mixture

EXPECTED_DIFFERENCES = ("name", "output", "tracking.")
"""Parameters, or their starts, that say nothing about the result."""
MAX_SAVES = 200


def results(runs: Sequence[RunRecord]) -> str:
    """What each run reached and what it took."""
    facts = [_facts(run) for run in runs]
    names = list(dict.fromkeys(name for found in facts for name in found))
    rows = [[name, *(found.get(name, NONE) for found in facts)] for name in names]
    return table(["", *run_names(runs)], rows, row_headers=True) + _scores(runs)


def _scores(runs: Sequence[RunRecord]) -> str:
    """The last and the best value of each metric on held-out rows and dev files."""
    scores = dict.fromkeys(n for run in runs for n in run.curves if is_score(n))
    if not scores:
        return ""
    if len(runs) > 1:
        head = ["", *(f"{n}, {kind}" for n in run_names(runs) for kind in ("last", "best"))]
        rows = [
            [
                score,
                *(
                    " at ".join(c).replace("– at –", NONE)
                    for run in runs
                    for c in _last_and_best(run, score)
                ),
            ]
            for score in scores
        ]
    else:
        head = ["", "last", "at step", "best", "at step"]
        rows = [[score, *sum(_last_and_best(runs[0], score), ())] for score in scores]
    return table(head, rows, row_headers=True)


def differences(runs: Sequence[RunRecord]) -> str:
    """The parameters in which the runs differ."""
    parameters = [run.launches.parameters for run in runs]
    keys = dict.fromkeys(key for found in parameters for key in found)
    rows = []
    for key in keys:
        cells = [shown(found[key]) if key in found else "not recorded" for found in parameters]
        if len(set(cells)) > 1 and not key.startswith(EXPECTED_DIFFERENCES):
            rows.append([key, *cells])
    if not rows:
        return "<p>No parameter differs but names and folders.</p>"
    return table(["parameter", *run_names(runs)], rows, row_headers=True)


def lineage(run: RunRecord) -> Iterator[str]:
    """Data, tokenizer, start weights, code, and where it ran."""
    parameters = run.launches.parameters
    yield "<h3>Data</h3>"
    yield from _data(run.launches.datasets)
    yield "<h3>Start weights, tokenizer, code, machines</h3>"
    tokenizer = shown(parameters.get("data.tokenizer_sha256"))
    dirty = " with local changes" if parameters.get("git.dirty") else ""
    rows = [
        ["start weights", _start_text(run)],
        ["tokenizer (sha256)", tokenizer],
        ["data fingerprint", shown(parameters.get("data.fingerprint"))],
        ["code (git commit)", shown(parameters.get("git.commit")) + dirty],
        *(
            [key.removeprefix("version."), shown(value)]
            for key, value in parameters.items()
            if key.startswith("version.")
        ),
        ["nodes", ", ".join(run.hosts or dict.fromkeys(x.host for x in run.launches.all))],
        ["folder", str(run.folder.resolve())],
    ]
    yield table(["", ""], rows, row_headers=True)


def settings(run: RunRecord) -> str:
    """The whole config of the last launch, folded."""
    rows = [
        [key, shown(value)]
        for key, value in run.launches.parameters.items()
        if not key.startswith(("version.", "git."))
    ]
    return (
        f"<details><summary>All {len(rows)} parameters of the last launch</summary>"
        f"{table(['parameter', 'value'], rows, row_headers=True)}</details>"
    )


def checkpoints(run: RunRecord) -> str:
    """The checkpoints, the last ones where there are very many."""
    if not run.saves:
        return "<p>No checkpoint is recorded.</p>"
    rows = [
        [
            f"{save.step:,}",
            f"{save.end_row:,}",
            number(save.score),
            f"{save.num_bytes / 1e6:,.1f}",
            save.sha256[:16],
            "yes" if save.is_there else "deleted",
        ]
        for save in run.saves[-MAX_SAVES:]
    ]
    head = ["step", "rows", "held-out loss or dev error", "MB", "hash", "there"]
    note = ""
    if len(run.saves) > MAX_SAVES:
        note = f"<p>The last {MAX_SAVES} of {len(run.saves):,}:</p>"
    return note + table(head, rows)


def _facts(run: RunRecord) -> dict[str, str]:
    curves, launches = run.curves, run.launches.all

    def mean(name: str) -> float | None:
        return curves[name].mean if name in curves else None

    def total(name: str) -> float | None:
        return curves[name].total if name in curves else None

    planned = run.launches.parameters.get("plan.total_steps")
    steps_of = f" of {planned:,}" if isinstance(planned, int) else ""
    step_s, waited = total("step_s"), mean("data_wait_s")
    facts = {
        "state": _state(run),
        "optimizer steps": f"{run.last_step:,}{steps_of}",
        "rows": number(_last(curves.get("rows")), 12),
        "tokens": number(total("tokens"), 12),
        "time in steps": duration_text(step_s) if step_s else NONE,
        "launches": f"{len(launches):,}",
        "steps computed again": f"{sum(launch.num_repeated_steps for launch in launches):,}",
        "steps without an update": f"{run.num_skipped:,}",
        "training loss, last": number(_last(curves.get("loss"))),
        "tokens/s, mean": number(total_rate(run)),
        "MFU, mean": _percent(mean("model_flops_utilization")),
        "waited for data": _percent(
            None if waited is None or not mean("step_s") else waited / (mean("step_s") or 1)
        ),
    }
    return {name: value for name, value in facts.items() if value != NONE}


def total_rate(run: RunRecord) -> float | None:
    """Tokens of all steps over the seconds of all steps; None where they are not recorded."""
    if "tokens" not in run.curves or "step_s" not in run.curves:
        return None
    seconds = run.curves["step_s"].total
    return run.curves["tokens"].total / seconds if seconds > 0 else None


def _state(run: RunRecord) -> str:
    launches = run.launches.all
    if not launches:
        return "not started"
    last = launches[-1]
    if last.ended_ms is None and run.done is not None:
        return "finished, as DONE says"
    if last.ended_ms is None:
        return f"running or killed; last heard of {time_text(last.until_ms)} UTC"
    early = last.end_tags.get("stopped_early", "no")
    best = last.end_tags.get("best_step")
    text = last.state if early == "no" else f"{last.state} early ({early})"
    return text if best is None else f"{text}; best step {best}"


def _last_and_best(run: RunRecord, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(value, step) of the last and of the best value."""
    curve = run.curves.get(name)
    if curve is None or curve.last is None:
        return (NONE, NONE), (NONE, NONE)
    best = curve.least if is_better_if_lower(name) else curve.greatest
    assert best is not None
    last = curve.last
    return (number(last.value), f"{last.step:,}"), (number(best.value), f"{best.step:,}")


def _data(datasets: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not datasets:
        yield "<p>No data set is recorded.</p>"
        return
    for found in datasets:
        profile = _profile(found)
        facts = [
            f"{label} <code>{escape(shown(profile[key]))}</code>"
            for key, label in (
                *(("fingerprint", "fingerprint"), ("sha256", "sha256")),
                *(("packing", "packing"), ("row_tokens", "row width")),
                *(("vocab_size", "vocabulary"), ("examples", "examples")),
            )
            if key in profile
        ]
        if (mixture := describe_mixture(profile)) is not None:
            facts.append(f"mixture {escape(mixture)}")
        name, context = escape(str(found.get("name", ""))), escape(str(found.get("context", "")))
        yield f"<p><b>{name}</b> ({context}): {', '.join(facts)}</p>"
        sources = profile.get("sources")
        if isinstance(sources, dict) and sources:
            columns = list(
                dict.fromkeys(k for s in sources.values() if isinstance(s, dict) for k in s)
            )
            rows = [
                [str(source), *(number(_maybe(counts.get(c)), 15) for c in columns)]
                for source, counts in sources.items()
                if isinstance(counts, dict)
            ]
            yield table(["split/source", *map(str, columns)], rows, row_headers=True)


def _profile(found: Mapping[str, Any]) -> dict[str, Any]:
    try:
        profile = json.loads(found.get("profile", "{}"))
    except (ValueError, TypeError, RecursionError):
        return {}
    return profile if isinstance(profile, dict) else {}


def _start_text(run: RunRecord) -> str:
    parameters = run.launches.parameters
    described = parameters.get("start.description")
    parts = []
    if described is not None:
        parts.append(f"{described} (weights {shown(parameters.get('start.fingerprint'))[:16]})")
    record = run.start.get("start") if run.start else None
    if not parts and run.start:
        parts.append(f"{run.start.get('description')}")
    while isinstance(record, dict):
        parts.append(f"{record.get('description')} ({str(record.get('fingerprint'))[:16]})")
        record = record.get("start")
    if parts:
        return ", before that ".join(parts)
    kind = parameters.get("start.type", "scratch")
    return "random" if kind == "scratch" else f"{kind} {shown(parameters.get('start.path'))}"


def _maybe(value: Any) -> float | None:
    return value if isinstance(value, int | float) else None


def _last(curve: Curve | None) -> float | None:
    return curve.last.value if curve is not None and curve.last is not None else None


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f} %"
