"""The model card of an export: README.md with the front matter that the Hugging Face hub reads.

It holds no path, host or address: a card is published with the model. Imports no torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from pipeline.checkpoint.manifest import Checkpoint
from pipeline.checkpoint.records import num_weights
from pipeline.hugging_face.card_file import card_text
from pipeline.model_cards.run_history import DataSet, RunHistory, describe_average
from pipeline.run.config import RunConfig, TrainConfig
from pipeline.run.later_phases import changes_by_phase
from pipeline.tracking.lineage import flatten
from pipeline.tracking.mixture import describe_mixture

MAX_EVALUATIONS = 20
"""Rows of the table of metrics."""
PIPELINE_TAGS = {
    "sequence_classification": "text-classification",
    "sequence_regression": "text-classification",
    "token_classification": "token-classification",
    "span_question_answering": "question-answering",
    "multiple_choice": "multiple-choice",
}
"""The hub's names of tasks by the type of the head."""
_RECIPE = (
    *("objective", "optimizer", "schedule", "batch", "total_rows", "steps", "micro_rows"),
    *("precision", "gradient_clipping", "seed", "max_row_tokens"),
)
"""Sections of a config that say how a model was trained, without paths."""


@dataclass(frozen=True)
class Card:
    """What a model card says, apart from what the checkpoint and the run's record say."""

    title: str
    summary: str
    pipeline_tag: str
    tags: tuple[str, ...]
    usage: str
    """Python code that loads the model."""
    architecture: Mapping[str, Any]
    """The settings of config.json."""
    recipe: Mapping[str, Any]
    """Further settings of the training, by name."""
    start: str
    """What the weights started from."""
    metrics: str
    """Metrics whose names start with this are shown, "heldout_" for example."""
    metrics_suffix: str = ""
    languages: tuple[str, ...] = ()
    base_model: str | None = None
    """The hub's name of the model that training started from."""
    library: str = "transformers"


def model_card(
    card: Card,
    config: RunConfig,
    checkpoint: Checkpoint,
    history: RunHistory,
    differences: Mapping[str, float],
) -> str:
    """The content of README.md; `differences` are the largest of the parity check by quantity."""
    sections = [
        f"# {card.title}",
        card.summary,
        "## Usage",
        f"```python\n{card.usage}\n```",
        "## Architecture",
        _architecture(card, checkpoint),
        "## Training data",
        _data(history, checkpoint),
        "## Training",
        _table(("setting", "value"), _recipe(card, config)),
        "## Metrics",
        _metrics(card, checkpoint, history),
        "## Lineage",
        _table(("", ""), _lineage(card, config, checkpoint, history, differences)),
    ]
    body = "\n\n".join(sections) + "\n"
    return card_text(_front_matter(card), body)


def _front_matter(card: Card) -> str:
    languages = list(card.languages)
    tree: dict[str, Any] = {
        "library_name": card.library,
        "pipeline_tag": card.pipeline_tag,
        **({"language": languages if len(languages) > 1 else languages[0]} if languages else {}),
        **({"base_model": card.base_model} if card.base_model else {}),
        "tags": list(card.tags),
    }
    return str(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def _architecture(card: Card, checkpoint: Checkpoint) -> str:
    shown = {
        key: value
        for key, value in card.architecture.items()
        if isinstance(value, str | int | float) and not key.endswith("_token_id")
    }
    classes = ", ".join(card.architecture.get("architectures", ()))
    parameters = f"{num_weights(checkpoint.manifest.parameters):,}"
    rows = [("class", classes), ("parameters", parameters), *shown.items()]
    return _table(("setting", "value"), rows)


def _data(history: RunHistory, checkpoint: Checkpoint) -> str:
    blocks = []
    for found in history.datasets:
        blocks += [_data_set_line(found), *_sources(found)]
    if not blocks:
        blocks.append(
            f"Fingerprint `{checkpoint.manifest.data_fingerprint}`; the run's record of its "
            "sources is missing."
        )
    blocks.append(f"Tokenizer: sha256 `{checkpoint.manifest.tokenizer_sha256}`.")
    return "\n\n".join(blocks)


def _data_set_line(found: DataSet) -> str:
    profile = found.profile
    known = (("fingerprint", "fingerprint `{}`"), ("sha256", "sha256 `{}`"))
    parts = [text.format(profile[key]) for key, text in known if key in profile]
    if isinstance(profile.get("files"), list):
        parts.insert(0, "files " + ", ".join(str(name) for name in profile["files"]))
    if "row_tokens" in profile:
        parts.append(f"rows of {profile['row_tokens']} tokens packed by {profile.get('packing')}")
    if isinstance(profile.get("examples"), int):
        parts.append(f"{profile['examples']:,} examples")
    if (mixture := describe_mixture(profile)) is not None:
        parts.append(f"mixture {mixture}")
    return f"**{_cell(found.name)}** ({_cell(found.context)}): {_cell('; '.join(parts))}"


def _sources(found: DataSet) -> list[str]:
    sources = found.profile.get("sources")
    if not isinstance(sources, dict) or not sources:
        return []
    columns = ("documents", "tokens", "rows")
    rows = [
        (name, *(f"{counts.get(column, 0):,}" for column in columns))
        for name, counts in sources.items()
        if isinstance(counts, dict)
    ]
    return [_table(("split/source", *columns), rows)]


def _recipe(card: Card, config: RunConfig) -> list[tuple[str, Any]]:
    tree = config.model_dump(mode="json", exclude_defaults=False)
    parts = {key: tree[key] for key in _RECIPE if key in tree}
    phases = config.phases if isinstance(config, TrainConfig) else ()
    for number, changes in enumerate(changes_by_phase(phases), 2):
        parts[f"phase {number}"] = {k: v for k, v in changes.items() if not k.startswith("data.")}
    grid = {"parallel": {k: tree["parallel"][k] for k in ("tensor", "zero_stage")}}
    flat = flatten({**parts, **grid})
    return [(k, v) for k, v in {**card.recipe, **flat}.items() if v not in (None, (), [], {})]


def _metrics(card: Card, checkpoint: Checkpoint, history: RunHistory) -> str:
    if checkpoint.manifest.averaged is not None:
        return "Those of an average are not recorded: `python -m pipeline.evaluate` computes them."
    if history.evaluations is None:
        return "The run's record is missing."
    found = {
        step: {
            name.removesuffix(card.metrics_suffix): value
            for name, value in values.items()
            if name.startswith(card.metrics) and name.endswith(card.metrics_suffix)
        }
        for step, values in history.evaluations.items()
    }
    found = {step: values for step, values in found.items() if values}
    if not found:
        return "Not evaluated up to this step."
    names = list(dict.fromkeys(name for values in found.values() for name in values))
    rows = [
        (f"{step:,}", *(f"{values[n]:.4f}" if n in values else "" for n in names))
        for step, values in _thinned(found).items()
    ]
    return _table(("step", *(name.replace("_", " ", 1) for name in names)), rows)


def _thinned(found: Mapping[int, Mapping[str, float]]) -> dict[int, Mapping[str, float]]:
    """At most MAX_EVALUATIONS of the steps, evenly, the last one among them."""
    steps = sorted(found)
    count = min(len(steps), MAX_EVALUATIONS)
    chosen = {steps[len(steps) - 1 - number * len(steps) // count] for number in range(count)}
    return {step: found[step] for step in steps if step in chosen}


def _lineage(
    card: Card,
    config: RunConfig,
    checkpoint: Checkpoint,
    history: RunHistory,
    differences: Mapping[str, float],
) -> list[tuple[str, Any]]:
    manifest = checkpoint.manifest
    commit = history.commit or "not recorded"
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    parity = ", ".join(f"{what} {found:.1e}" for what, found in differences.items())
    average = [("average of", describe_average(manifest.averaged))] if manifest.averaged else []
    return [
        *average,
        ("run", config.name),
        ("step", f"{manifest.step:,}"),
        ("rows read", f"{manifest.consumed_rows:,}"),
        ("checkpoint (sha256)", f"`{manifest.sha256}`"),
        ("weights before training", card.start),
        ("launches", history.launches or "not recorded"),
        ("code (git commit)", commit + " with changes" * history.is_dirty),
        ("software", versions),
        ("parity: largest difference to the trained model", parity),
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    """A value on one line, with no character that ends a cell of a table or starts HTML."""
    text = " ".join(str(value).split())
    return text.replace("|", "\\|").replace("<", "&lt;")
