"""Whole runs in which each weight is NaN until somebody waits for it: no bit is other than in a run
that waits for all weights at once.

With evaluations and saves between the steps, for every kind of model and objective. What is not
waited for before it is read makes a loss NaN.
"""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.weight_gathers import start_gather
from pipeline.run.config import RunConfig, TrainConfig
from pipeline.tracking.event_log import LOG_NAME, read_events
from tests.gloo import run_ranks
from tests.pipeline.engine.late_weights import gathers, start_at_once, start_late
from tests.pipeline.engine.recorded_graphs import as_on_a_gpu
from tests.pipeline.finetuning.finetune_run import (
    make_finetune_config,
    make_pretrained,
    run_finetuning,
)
from tests.pipeline.finetuning.test_adversarial import OPTIONS
from tests.pipeline.pretraining.test_graphs import in_recorded_graphs
from tests.pipeline.pretraining.test_instability import pretrain_with_bad_rows
from tests.pipeline.pretraining.test_replaced_tokens import GENERATORS, MASKING
from tests.pipeline.training_run import (
    SMALL_MODEL,
    assert_same_bits,
    final_state,
    make_config,
    make_rows,
    metrics,
    pretrain,
)

MODERN = {
    "num_layers": 3,
    "norm_placement": {"type": "pre"},
    "first_norm": False,
    "bias": {"attention": False, "mlp": False, "norm": False, "head": False},
    "activation": {"type": "geglu"},
    "positions": {"type": "rotary"},
    "attention_pattern": {"type": "alternating", "neighbours": 8, "global_every": 2},
    "packed_rows": {"type": "inside"},
    "type_vocab_size": 0,
}
LAYERS = {"activation_checkpointing": {"type": "layers", "every": 2}}
SELECTIVE = {"activation_checkpointing": {"type": "selective"}}
COMPILED = {"compile": "on"}


def replaced(name: str) -> dict[str, Any]:
    objective = {"type": "replaced_tokens", "generator": GENERATORS[name], "masking": MASKING}
    return {"objective": objective, "total_rows": 64}


CASES: dict[str, dict[str, Any]] = {
    "RoBERTa": {},
    "ModernBERT's kind": {"model": MODERN},
    "a decoder of its own": {"model": {"tied_decoder": False, "head_layers": False}},
    "narrow vectors, shared layers": {
        "model": {
            "num_layers": 4,
            "embedding_size": 16,
            "parameter_sharing": {"type": "groups", "num_groups": 2},
        }
    },
    "frozen layers": {"model": {"frozen": {"type": "lower", "num_layers": 1}}},
    "layers computed again": {"model": MODERN, "compute": LAYERS},
    "selectively": {"compute": SELECTIVE},
    "compiled": {"compute": COMPILED},
    "compiled, selectively": {"model": MODERN, "compute": {**COMPILED, **SELECTIVE}},
    "muon": {"optimizer": {"type": "muon"}},
    "lamb": {"optimizer": {"type": "lamb"}},
    "causal": {"objective": {"type": "causal"}},
    "alum": {"adversarial": {"type": "alum"}},
    "phases": {"then": [{"total_rows": 64, "model": {"hidden_dropout": 0.0}}]},
    **{f"replaced tokens, {name}": replaced(name) for name in GENERATORS},
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder)
    return folder


def config_of(rows: Path, output: Path, changes: dict[str, Any]) -> TrainConfig:
    """In bf16, with an evaluation or a save after each step."""
    model = SMALL_MODEL | changes.get("model", {})
    settings: dict[str, Any] = {
        "total_rows": 5 * 16,
        "precision": "bf16",
        "schedule": {"type": "constant"},
        "evaluation": {"every_steps": 2, "rows_per_source": 6},
        "checkpoint": {"every_steps": 3},
        **changes,
        "model": model,
    }
    return make_config(rows, output, **settings)


def run(train: Any, start: Any, *arguments: Any) -> None:
    """`train(*arguments)` with gathers by `start`."""
    with gathers(start):
        train(*arguments)


def scores(config: RunConfig) -> list[dict[str, float]]:
    """What each evaluation found."""
    values = [event.get("values", {}) for event, _ in read_events(config.output / LOG_NAME)]
    of_evaluations = [
        {name: value for name, value in found.items() if name.startswith(("heldout_", "dev_"))}
        for found in values
    ]
    return [found for found in of_evaluations if found]


def assert_same_run(first: RunConfig, second: RunConfig) -> None:
    for name in ("loss", "gradient_norm", "skipped"):
        assert metrics(first, name) == metrics(second, name)
    assert scores(first) == scores(second)
    assert len(scores(first)) > 1
    assert_same_bits(final_state(first), final_state(second))


def pretrain_as_on_a_gpu(config: TrainConfig) -> None:
    with as_on_a_gpu() if config.compute.compile == "on" else contextlib.nullcontext():
        pretrain(config)


@pytest.mark.parametrize("name", CASES)
def test_no_weight_is_read_before_it_is_there(name: str, rows: Path, tmp_path: Path) -> None:
    late, expected = (config_of(rows, tmp_path / each, CASES[name]) for each in "ab")
    run_ranks(run, 1, pretrain_as_on_a_gpu, start_late, late)
    run_ranks(run, 1, pretrain_as_on_a_gpu, start_at_once, expected)
    assert_same_run(late, expected)


GRIDS: dict[str, tuple[int, dict[str, Any]]] = {
    "data parallel 2": (2, {}),
    "data parallel 2, tensor parallel 2": (4, {"parallel": {"tensor": 2}}),
    "the same with sequence parallelism": (
        4,
        {"parallel": {"tensor": 2}, "compute": {"sequence_parallel": True}},
    ),
    "the same, computed again": (
        4,
        {"parallel": {"tensor": 2}, "compute": SELECTIVE, "model": MODERN},
    ),
}


@pytest.mark.parametrize("name", GRIDS)
def test_gathers_over_ranks_change_no_bit(name: str, rows: Path, tmp_path: Path) -> None:
    ranks, changes = GRIDS[name]
    runs = {each: config_of(rows, tmp_path / each, changes) for each in ("late", "real", "none")}
    for each, start in (("late", start_late), ("real", start_gather), ("none", start_at_once)):
        run_ranks(run, ranks, pretrain_as_on_a_gpu, start, runs[each])
    for each in ("late", "real"):
        assert_same_run(runs[each], runs["none"])


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_roll_back_reads_no_weight_before_it_is_there(
    ranks: int, rows: Path, tmp_path: Path
) -> None:
    """Weights are on their way when a run goes back to its checkpoint, in step 7 to that of 6."""
    changes = {"total_rows": 9 * 16, "stability": {"max_skipped_in_a_row": 1}}
    late, expected = (config_of(rows, tmp_path / each, changes) for each in "ab")
    bad = (range(6 * 16, 7 * 16), "not finite")
    run_ranks(run, ranks, pretrain_with_bad_rows, start_late, late, *bad)
    run_ranks(run, ranks, pretrain_with_bad_rows, start_at_once, expected, *bad)
    assert_same_run(late, expected)


def test_graphs_read_no_weight_before_it_is_there(rows: Path, tmp_path: Path) -> None:
    """Neither those that are captured nor those that are launched again."""
    on, off = (
        config_of(rows, tmp_path / word, {"compute": {"compile": "on", "cuda_graphs": word}})
        for word in ("on", "off")
    )
    run_ranks(run, 2, replayed, start_late, on, 5 * 2)
    run_ranks(run, 2, replayed, start_at_once, off, 0)
    assert_same_run(on, off)


def replayed(config: TrainConfig, at_least: int) -> None:
    """Trains in graphs, of which so many are launched again."""
    found = in_recorded_graphs(pretrain, config)
    assert found >= at_least - 2 * 4
    assert bool(found) == bool(at_least)


FINE_TUNINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tasks only": {"mlm": None},
    **{kind: {"adversarial": options} for kind, options in OPTIONS.items()},
}


@pytest.mark.parametrize("name", FINE_TUNINGS)
def test_fine_tuning_reads_no_weight_before_it_is_there(name: str, tmp_path: Path) -> None:
    """Six tasks and masked language modelling, whose heads are needed in some micro-batches only;
    data-parallel ranks have different ones."""
    pretrained = make_pretrained(tmp_path / "pretrained")
    late, expected = (
        make_finetune_config(
            *(pretrained, tmp_path / each / "run"),
            precision="bf16",
            steps=4,
            evaluate_every_steps=2,
            **FINE_TUNINGS[name],
        )
        for each in "ab"
    )
    run_ranks(run, 2, run_finetuning, start_late, late)
    run_ranks(run, 2, run_finetuning, start_at_once, expected)
    assert_same_run(late, expected)
