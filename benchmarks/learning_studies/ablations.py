"""Study 2: design choices that papers compared, on a network of 3 x 128 and a million tokens.

All are scored on the same held-out rows with 15 % independent masks, whatever they trained with.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.data_corpus import SOURCES
from benchmarks.learning_studies.corpora import prepare_corpus, rows_folder, summary
from benchmarks.learning_studies.launches import score, train
from benchmarks.learning_studies.results import Results, Values, side_by_side

STUDY = "ablations"
SMALL = Path(__file__).parent / "small.yaml"
MASK_RATE = 0.15
"""Of the scores."""
ONE_SOURCE = {
    "weights": {name: float(name == "encyclopedia") for name in SOURCES},
    "sampling_exponent": None,
}
"""The smallest source: the runs read 1.5 epochs of it."""
TINY = {"num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 192}
LARGE_BATCH_ROWS = 40_960


@dataclass(frozen=True)
class Variant:
    """A run that differs from the base."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    """By dotted key of the config."""
    corpus: str = "small"
    seeds: tuple[int, ...] = (1, 2)


def batch_of(rows: int, lr: float) -> Mapping[str, Any]:
    """The changes for a run with `rows` a step; its own small network and number of rows."""
    return {
        **{f"model.{key}": value for key, value in TINY.items()},
        "total_rows": LARGE_BATCH_ROWS,
        "batch": {"global_rows": rows, "micro_rows": 64},
        "optimizer.lr": lr,
        "optimizer.adamw_lr": lr / 2,
        "schedule.warmup_rows": LARGE_BATCH_ROWS // 10,
    }


def adamw(lr: float) -> Mapping[str, Any]:
    """The changes for AdamW."""
    return {"optimizer": {"type": "adamw", "lr": lr, "weight_decay": 0.05, "eps": 1e-8}}


VARIANTS = {
    "base": Variant(seeds=(1, 2, 3)),
    "one-source-dynamic": Variant({"data": ONE_SOURCE}),
    "one-source-static": Variant({"data": ONE_SOURCE, "objective.type": "static"}),
    "doc-sentences": Variant(corpus="small-documents"),
    "mask-15": Variant({"objective.mask_rate": 0.15}),
    "mask-40": Variant({"objective.mask_rate": 0.4}),
    "batch-256": Variant(batch_of(256, 1e-2)),
    "batch-2048": Variant(batch_of(2048, 2e-2)),
    "learned-positions": Variant({"model.positions": {"type": "learned"}, "export": "none"}),
    "adamw-2e-3": Variant(adamw(2e-3)),
    "adamw-4e-3": Variant(adamw(4e-3)),
}
"""By name. Of AdamW's two learning rates the better one counts; Muon has that of the demo."""


def run(folder: Path, scale: float) -> None:
    """All of the study; `scale` times the rows of every run."""
    results = Results(folder, STUDY)
    for name in dict.fromkeys(variant.corpus for variant in VARIANTS.values()):
        rows = prepare_corpus(folder, name)
        results.compute(f"corpus-{name}", partial(summary, rows=rows))
    train_variants(results, VARIANTS, scale)


def train_variants(results: Results, variants: Mapping[str, Variant], scale: float) -> None:
    """Every seed of every variant, on corpora that are prepared."""
    side_by_side(
        [
            partial(
                results.compute,
                f"{name}-seed{seed}",
                partial(
                    train_variant, studies=results.folder, variant=variant, seed=seed, scale=scale
                ),
            )
            for name, variant in variants.items()
            for seed in variant.seeds
        ]
    )


def train_variant(
    folder: Path, *, studies: Path, variant: Variant, seed: int, scale: float
) -> Values:
    """The scores of one run, on the held-out rows of its corpus and on those of `small`."""
    tree = variant_config(studies, variant, seed, scale)
    cost = train(tree, folder)
    common = [f"data.path={rows_folder(studies, 'small')}", "data.weights=null"]
    own = score(folder, mask_rate=MASK_RATE)
    shared = score(folder, mask_rate=MASK_RATE, changes=common)
    return {
        "loss": shared["heldout_loss"],
        "accuracy": shared["heldout_accuracy"],
        "unigram_loss": shared["heldout_unigram_loss"],
        "own_loss": own["heldout_loss"],
        "by_source": {k: v for k, v in shared.items() if k.startswith("heldout_loss/")},
        "rows": tree["total_rows"],
        "seed": seed,
        "cpu_s": cost.cpu_s,
        "wall_s": cost.wall_s,
    }


def variant_config(studies: Path, variant: Variant, seed: int, scale: float) -> dict[str, Any]:
    """The config of a run, with `scale` times the rows."""
    tree: dict[str, Any] = yaml.safe_load(SMALL.read_text())
    tree["data"]["path"] = str(rows_folder(studies, variant.corpus))
    for key, value in variant.changes.items():
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node = node[parent]
        is_section = isinstance(value, dict) and last == "data"
        node[last] = {**node[last], **value} if is_section else copy.deepcopy(value)
    tree["seed"] = seed
    batch = tree["batch"]["global_rows"]
    factor = scale / token_share(studies, variant.corpus)
    tree["total_rows"] = max(1, round(tree["total_rows"] * factor / batch)) * batch
    tree["schedule"]["warmup_rows"] = min(tree["schedule"]["warmup_rows"], tree["total_rows"] // 10)
    return tree


def token_share(studies: Path, corpus: str) -> float:
    """Tokens in a row of `corpus` over those in a row of `small`: rows of single documents have
    padding, and Liu et al. (2019, section 4.2) compare at equal numbers of tokens."""
    mean = [_row_tokens(rows_folder(studies, name)) for name in (corpus, "small")]
    return mean[0] / mean[1] if mean[1] else 1.0


def _row_tokens(rows: Path) -> float:
    sources = json.loads((rows / "manifest.json").read_text())["splits"]["train"].values()
    tokens, rows_of_all = (sum(int(s[key]) for s in sources) for key in ("tokens", "rows"))
    return tokens / max(1, rows_of_all)
