"""What an evaluation found: measures by model and check, as they are shown, written and tracked."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Better = Literal["lower", "higher", ""]
"""Which direction is better; empty where it depends."""


@dataclass(frozen=True)
class Quantity:
    """What a name of a measure means."""

    title: str
    better: Better = ""
    format: str = ".4f"
    items: str = ""
    """What a measure of it counts."""


QUANTITIES: Mapping[str, Quantity] = {
    "bits_per_byte": Quantity("bits per byte", "lower", items="words"),
    "word_accuracy": Quantity("masked words right", "higher", ".1%", items="words"),
    "token_loss": Quantity("loss, nats per token of the own tokenizer", "lower", items="tokens"),
    "token_perplexity": Quantity(
        "perplexity per token of the own tokenizer", "lower", ",.2f", items="tokens"
    ),
    "tokens_per_word": Quantity("tokens per masked word", "", ".3f", items="words"),
    "text_kept": Quantity(
        "words that the tokenizer gives back unchanged", "", ".1%", items="words"
    ),
    "pair_accuracy": Quantity("pairs right", "higher", ".1%", items="pairs"),
    "phenomenon_accuracy": Quantity("pairs right, by phenomenon", "higher", ".1%", items="pairs"),
    "top1": Quantity(
        "answer is the first choice (answers of one token)", "higher", ".1%", items="gaps"
    ),
    "top5": Quantity(
        "answer among the first five (answers of one token)", "higher", ".1%", items="gaps"
    ),
    "median_rank": Quantity(
        "median rank of the answer (answers of one token)", "lower", ",.0f", items="gaps"
    ),
    "reciprocal_rank": Quantity(
        "mean reciprocal rank (answers of one token)", "higher", items="gaps"
    ),
    "answer_probability": Quantity("mean probability of the best answer", "higher", items="gaps"),
    "exact": Quantity(
        "every token of the answer is the first choice", "higher", ".1%", items="gaps"
    ),
    "pair_auc": Quantity("AUC of paraphrases against other pairs", "higher", ".3f", items="pairs"),
    "nearest": Quantity("nearest text is the paraphrase", "higher", ".1%", items="pairs"),
    "paraphrase_cosine": Quantity("mean cosine of paraphrases", "", ".3f", items="pairs"),
    "other_cosine": Quantity("mean cosine of other pairs", "", ".3f", items="pairs"),
    "isoscore": Quantity("IsoScore (1: isotropic)", "", ".4f", items="texts"),
    "tokens_per_s": Quantity("tokens per second", "higher", ",.0f", items="repeats"),
    "batch_ms": Quantity("milliseconds per batch", "lower", ",.1f", items="repeats"),
    "peak_memory_mb": Quantity("peak memory, MB", "lower", ",.0f"),
}


def quantity_of(name: str) -> Quantity:
    """The quantity of a measure; of one that training records, its own name."""
    if name in QUANTITIES:
        return QUANTITIES[name]
    better: Better = ""
    if "accuracy" in name or "f1" in name or "matthews" in name:
        better = "higher"
    elif "loss" in name or "perplexity" in name:
        better = "" if "unigram" in name else "lower"
    items = "examples" if name.startswith("dev_") else "rows"
    return Quantity(name.replace("_", " "), better, items=items)


@dataclass(frozen=True)
class Measure:
    """One number of one model."""

    name: str
    """A key of `QUANTITIES`, or the name under which training records it."""
    value: float
    group: str = ""
    """The source, file or length that it is of; empty: all."""
    low: float | None = None
    """Lower end of the 95 % interval."""
    high: float | None = None
    """Upper end of the 95 % interval."""
    count: int | None = None
    """How many items it is over."""
    documents: int | None = None
    """About how many documents these items are of; None where that is not known."""

    @property
    def key(self) -> tuple[str, str]:
        """What identifies it within a check."""
        return self.name, self.group

    @property
    def shown(self) -> str:
        """The value with its unit, and half of the width of its interval."""
        form = quantity_of(self.name).format
        text = format(self.value, form)
        if self.low is None or self.high is None or math.isnan(self.value):
            return text
        return f"{text} ± {format((self.high - self.low) / 2, form)}"


@dataclass(frozen=True)
class CheckResult:
    """What one check found for one model."""

    measures: tuple[Measure, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Items that were not counted, by reason."""
    notes: tuple[str, ...] = ()
    """What a reader has to know."""
    items: Sequence[Mapping[str, Any]] = ()
    """The single items, for a file of their own."""

    def to_tree(self) -> dict[str, Any]:
        """As JSON values, without the items."""
        return {
            "measures": [
                {
                    key: _plain(value)
                    for key, value in asdict(one).items()
                    if value not in ("", None)
                }
                for one in self.measures
            ],
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class ModelResults:
    """All that was found for one model."""

    name: str
    origin: Mapping[str, Any]
    """What the model is: path, step, hashes, size."""
    checks: Mapping[str, CheckResult]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one or more models."""

    fingerprint: str
    """Hash of the config, the models' weights, the texts and the probe files."""
    facts: Mapping[str, Any]
    """Machine, versions, texts, time."""
    config: Mapping[str, Any]
    models: tuple[ModelResults, ...]

    def to_tree(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "format_version": 1,
            "fingerprint": self.fingerprint,
            "facts": dict(self.facts),
            "config": dict(self.config),
            "models": {
                model.name: {
                    "origin": dict(model.origin),
                    "checks": {name: check.to_tree() for name, check in model.checks.items()},
                }
                for model in self.models
            },
        }

    def sections(self) -> dict[str, list[list[Measure | None]]]:
        """By check, a row for each measure of any model: that measure of each model, or None."""
        found: dict[str, list[list[Measure | None]]] = {}
        for check in dict.fromkeys(name for model in self.models for name in model.checks):
            of_models = [
                {one.key: one for one in model.checks[check].measures}
                if check in model.checks
                else {}
                for model in self.models
            ]
            keys = dict.fromkeys(key for measures in of_models for key in measures)
            rows = [[measures.get(key) for measures in of_models] for key in keys]
            if rows:
                found[check] = rows
        return found


def size_of(row: Sequence[Measure | None]) -> tuple[str, str]:
    """(what a row of measures is over, "604 words"; the documents of it, "~54"); empty where that
    is not known. Of several models that differ, the least and the most."""
    found = [one for one in row if one is not None]
    items = quantity_of(found[0].name).items
    counts = _range({one.count for one in found if one.count is not None})
    documents = _range({one.documents for one in found if one.documents is not None})
    return f"{counts} {items}" if counts else "", f"~{documents}" if documents else ""


def _range(numbers: set[int]) -> str:
    ends = sorted({min(numbers), max(numbers)}) if numbers else []
    return " to ".join(f"{number:,}" for number in ends)


def best_of(row: Sequence[Measure | None]) -> set[int]:
    """The models whose value is the best of a row, where there are several that differ."""
    values = {n: one.value for n, one in enumerate(row) if one and not math.isnan(one.value)}
    better = quantity_of(next(one.name for one in row if one)).better
    if not better or len(set(values.values())) < 2:
        return set()
    best = (min if better == "lower" else max)(values.values())
    return {n for n, value in values.items() if value == best}


def _plain(value: Any) -> Any:
    """NaN and infinity have no JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
