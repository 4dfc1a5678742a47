"""Later phases: what they take over, what they may change, and what a longer phase may not."""

from pathlib import Path
from typing import Any

import pytest

from configs.load import ConfigError, UserError, validate
from model.objectives.span import SpanMaskingConfig
from pipeline.run.config import TrainConfig
from pipeline.run.later_phases import changes_by_phase, changes_in_words
from pipeline.run.mid_run import forbidden_changes
from pipeline.run.plan import plan_run
from pipeline.run.run_folder import check_claim, claim
from tests.pipeline.hugging_face.folders import tiny_tokenizer
from tests.pipeline.plan_lines import report
from tests.pipeline.run.test_mid_run import (
    IN_PHASE_0,
    IN_WARMUP,
    NOT_STARTED,
    PHASE,
    ROWS_OF_PHASE_0,
    train_config,
)
from tests.pipeline.training_run import VOCAB_SIZE, make_config, make_rows

MODERN: dict[str, Any] = {
    "total_rows": 160,
    "data": {"path": "a", "workers": 3, "weights": {"x": 1.0}},
    "model": {
        "num_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "max_row_tokens": 64,
        "positions": {"type": "rotary"},
        "attention_pattern": {"type": "alternating", "neighbours": 8},
    },
    "objective": {"type": "mlm", "mask_rate": 0.3},
    "batch": {
        "global_rows": 16,
        "micro_rows": 4,
        "warmup": [{"until_row": 16, "global_rows": 8}],
    },
    "optimizer": {"type": "muon", "lr": 1e-3},
    "schedule": {"type": "wsd", "warmup_rows": 8, "decay": "linear"},
}


def modern(*then: dict[str, Any], **changes: Any) -> TrainConfig:
    tree = {"name": "test", "output": "run", "export": "none", **MODERN, **changes}
    return validate({**tree, "then": list(then)}, TrainConfig, "test")


def test_what_is_not_given_is_as_in_the_phase_before() -> None:
    config = modern(
        {"total_rows": 80},
        {
            "total_rows": 40,
            "data": {"path": "b"},
            "model": {"positions": {"base": 160_000.0}, "hidden_dropout": 0.0},
            "optimizer": {"lr": 5e-4},
            "objective": {"mask_rate": 0.05},
            "batch": {"global_rows": 8},
            "schedule": {"decay_share": 1.0},
            "gradient_clipping": 1.0,
        },
        {"total_rows": 16, "data": {"weights": {"y": 2.0}}, "objective": {"type": "span"}},
    )
    first, second, third, fourth = config.phases
    assert changes_by_phase(config.phases)[2] == {
        "total_rows": 16,
        "objective.type": "span",
        "objective.mask_rate": 0.15,
        "objective.max_span_words": 10,
        "objective.stop_probability": 0.2,
        "data.weights": {"y": 2.0},
    }
    assert changes_in_words(first, second) == ""
    assert (second.schedule.warmup_rows, second.batch.warmup) == (0, ())
    assert changes_in_words(second, third).split(", ") == [
        "model.positions.base 10000.0 -> 160000.0",
        "model.hidden_dropout 0.1 -> 0.0",
        "objective.mask_rate 0.3 -> 0.05",
        "optimizer.lr 0.001 -> 0.0005",
        "gradient_clipping 0.0 -> 1.0",
        "schedule.decay_share 0.2 -> 1.0",
        "data.weights {'x': 1.0} -> None",
    ]
    assert (third.batch.global_rows, third.batch.micro_rows) == (8, 4)
    assert third.data.workers == 3
    assert (fourth.data.path, fourth.data.weights) == (third.data.path, {"y": 2.0})
    assert fourth.model == third.model
    other_shares = modern({"total_rows": 80, "data": {"sampling_exponent": 0.5}}).then[0].data
    assert (str(other_shares.path), other_shares.weights) == (str(first.data.path), None)
    assert fourth.objective == SpanMaskingConfig(type="span")
    assert validate(config.model_dump(mode="json"), TrainConfig, "stored") == config


def test_phases_of_older_runs_are_read() -> None:
    """They stored data, length, batch and schedule of a phase; the rest was the run's."""
    old = {
        "data": {"path": "b"},
        "total_rows": 80,
        "batch": {"global_rows": 8, "micro_rows": 4, "warmup": []},
        "schedule": {"type": "linear", "warmup_rows": 0, "total_rows": None, "final_ratio": 0.0},
    }
    config = modern(old)
    (later,) = config.then
    assert (later.model, later.optimizer) == (config.model, config.optimizer)
    assert (later.schedule.type, later.batch.global_rows) == ("linear", 8)


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ({"model": {"hidden_size": 64}}, r"then\.0\.model\.hidden_size: 64, but 32"),
        ({"model": {"num_layers": 3}}, r"then\.0\.model\.num_layers: 3, but 2"),
        (
            {"model": {"positions": {"type": "learned"}}},
            r"then\.0\.model\.positions\.type: 'learned', but 'rotary'",
        ),
        ({"model": {"norm_placement": {"type": "pre"}}}, r"then\.0\.model\.norm_placement\.type"),
        ({"model": {"frozen": {"type": "lower"}}}, r"then\.0\.model\.frozen\.type"),
        ({"model": {"hiden_dropout": 0}}, r"then\.0\.model\.hiden_dropout: unknown key"),
        ({"model": {"hidden_dropout": 2}}, r"then\.0\.model\.hidden_dropout: Input should be less"),
        ({"model": {"attention_pattern": {"neighbours": 64}}}, r"then\.0\.model: .*use at most 63"),
        ({"optimizer": {"type": "adamw"}}, r"then\.0\.optimizer\.type: 'adamw', but 'muon'"),
        ({"objective": {"mask_rate": 3}}, r"then\.0\.objective"),
        ({"parallel": {"tensor": 2}}, r"then\.0\.parallel: unknown key"),
        ({"total_rows": 4}, r"then\.0: total_rows 4 is less than one optimizer step"),
        ({"model": 3}, r"then\.0\.model"),
    ],
    ids=str,
)
def test_what_a_phase_cannot_change_is_named(phase: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        modern({"total_rows": 80, **phase}, {"total_rows": 80})


def test_what_does_not_fit_into_a_short_run_is_named_at_once_with_what_fits() -> None:
    long = {"schedule": {"type": "constant", "warmup_rows": 400}}
    with pytest.raises(ConfigError, match="1 error") as error:
        modern(**long, total_rows=20)
    message = str(error.value)
    assert "less than one optimizer step of batch.global_rows 16 after the batch warm-up" in message
    assert "schedule.warmup_rows 400 is longer than the schedule of 20 rows" in message
    assert message.endswith("length: batch.warmup=[] schedule.warmup_rows=2")
    batch = {**MODERN["batch"], "warmup": []}
    modern(schedule={"type": "constant", "warmup_rows": 2}, total_rows=20, batch=batch)
    with pytest.raises(ConfigError) as error:
        modern(**long, total_rows=3)
    fitting = "batch.warmup=[] batch.global_rows=3 batch.micro_rows=3 schedule.warmup_rows=0"
    assert str(error.value).endswith(fitting)


def test_errors_of_the_first_phase_are_reported_once() -> None:
    with pytest.raises(ConfigError, match="1 error") as error:
        modern({"total_rows": 80}, {"total_rows": 80}, optimizer={"type": "muon", "lr": -1.0})
    assert "then" not in str(error.value)


def test_rows_and_windows_of_each_phase_are_checked(tmp_path: Path) -> None:
    make_rows(tmp_path / "short")
    make_rows(tmp_path / "long", rows=128, row_tokens=64)
    long = {"data": {"path": str(tmp_path / "long")}, "total_rows": 32}

    def plan(*then: dict[str, Any], **changes: Any) -> None:
        model = {**MODERN["model"], **changes}
        plan_run(make_config(tmp_path / "short", tmp_path / "run", model=model, then=then), 1)

    plan(long, attention_pattern={"type": "alternating", "neighbours": 40})
    with pytest.raises(ConfigError, match=r"less than the rows of 64 .* \(then\.1\.data\.path\)"):
        plan({"total_rows": 32}, long, max_row_tokens=32)
    plan({**long, "model": {"max_row_tokens": 64}}, max_row_tokens=32)
    short = {"total_rows": 32, "data": {"path": str(tmp_path / "short")}}
    plan(long, {**short, "model": {"attention_pattern": {"type": "full"}}})
    batch = {"global_rows": 6, "micro_rows": 4}
    with pytest.raises(ConfigError, match=r"then\.0\.batch\.global_rows 6 is not a multiple"):
        plan({**long, "batch": batch})
    data = {"path": str(tmp_path / "long"), "weights": {"a": 1, "c": 1}}
    with pytest.raises(ConfigError, match=r"then\.1\.data\.weights: unknown sources \['c'\]"):
        plan(long, {**long, "data": data})
    with pytest.raises(UserError, match=r"then\.1\.data: .*gone"):
        plan(long, {**long, "data": {"path": str(tmp_path / "gone")}})


@pytest.mark.parametrize("number", [0, 2])
def test_words_that_the_tokenizer_does_not_show(number: int, tmp_path: Path) -> None:
    make_rows(tmp_path / "rows", tokenizer=tiny_tokenizer(VOCAB_SIZE))
    phases: list[dict[str, Any]] = [{"total_rows": 128} for _ in range(3)]
    phases[number]["objective"] = {"type": "span"}
    settings = {**phases[0], "then": phases[1:]}
    config = make_config(tmp_path / "rows", tmp_path / "run", **settings)
    where = "then.1." if number else ""
    with pytest.raises(ConfigError) as error:
        plan_run(config, 1)
    assert str(error.value).startswith(f"{where}objective.type span: the tokens of this vocabulary")


def test_the_planner_shows_what_a_phase_changes(tmp_path: Path) -> None:
    make_rows(tmp_path / "rows")
    phase = {"total_rows": 32, "model": {"positions": {"base": 160_000.0}}}
    config = make_config(tmp_path / "rows", tmp_path / "run", model=MODERN["model"], then=[phase])
    lines = list(report(config, 1, 1))
    assert "    changed from the phase before: model.positions.base 10000.0 -> 160000.0" in lines
    model = {**MODERN["model"], "attention_pattern": {"type": "window", "neighbours": 32}}
    wide = make_config(tmp_path / "rows", tmp_path / "run", model=model, then=[{"total_rows": 32}])
    lines = list(report(wide, 1, 1))
    notes = [n for n, line in enumerate(lines) if "neighbours 32 reaches beyond these rows" in line]
    assert notes == [2, 4]  # in every phase a note, not an error
    model = {**MODERN["model"], "attention_dropout": 0.0}
    with pytest.raises(ConfigError, match=r"then\.0: compute\.attention_backend flex"):
        modern(
            {"total_rows": 32, "model": {"attention_dropout": 0.1}},
            compute={"attention_backend": "flex"},
            model=model,
        )


@pytest.mark.parametrize(
    ("settings", "refused_in", "names"),
    [
        ({"schedule": {"type": "linear"}}, {IN_WARMUP, IN_PHASE_0, ROWS_OF_PHASE_0}, "linear"),
        ({"schedule": {"type": "linear", "warmup_rows": 30}}, {IN_PHASE_0, ROWS_OF_PHASE_0}, "add"),
        ({"schedule": {"type": "linear", "total_rows": 160}}, set(), ""),
        ({"schedule": {"type": "cosine"}}, {IN_WARMUP, IN_PHASE_0, ROWS_OF_PHASE_0}, "cosine"),
        ({"schedule": {"type": "wsd", "decay_share": 0.25}}, {ROWS_OF_PHASE_0}, "wsd"),
        ({"schedule": {"type": "inverse_sqrt", "scale_rows": 9}}, set(), ""),
        (
            {"objective.mask_rate": {"type": "linear"}},
            {IN_WARMUP, IN_PHASE_0, ROWS_OF_PHASE_0},
            "mask_rate",
        ),
    ],
    ids=str,
)
def test_the_length_of_the_present_phase(
    settings: dict[str, Any], refused_in: set[int], names: str
) -> None:
    """It may change while no rate of a step that was taken depends on it."""
    before, now = train_config(settings), train_config({**settings, "total_rows": 320})
    for position in (NOT_STARTED, IN_WARMUP, IN_PHASE_0, ROWS_OF_PHASE_0):
        lines = forbidden_changes(before, now, position)
        expected = ["total_rows"] if position in refused_in else []
        assert [line.partition(":")[0] for line in lines] == expected, position
        assert all(names in line and "`then`" in line for line in lines)
    other = train_config({**settings, "total_rows": 320, "schedule": {"type": "wsd"}})
    if "schedule" in settings:  # a new schedule is meant for the steps to come
        assert forbidden_changes(before, other, IN_PHASE_0) == []


def test_a_schedule_that_ends_before_its_phase_is_shown(tmp_path: Path) -> None:
    """As after a trial that is continued: the refusal says what its own hint leads to."""
    linear = {"type": "linear", "final_ratio": 0.25}
    trial = train_config({"schedule": linear})
    (line,) = forbidden_changes(trial, train_config({"schedule": linear, "total_rows": 320}), 96)
    rows = trial.phases[0].steps.total_rows
    assert "choose a new output folder, or keep total_rows and add a phase under `then`" in line
    assert f"schedule.total_rows: {rows} would train all later rows at 0.25 x the peak" in line
    make_rows(tmp_path / "rows")
    shown = {}
    for kind in ("linear", "constant"):
        schedule = {"type": kind, "total_rows": 160}
        config = make_config(tmp_path / "rows", tmp_path / "run", schedule=schedule)
        shown[kind] = "\n".join(plan_run(config, 1).summary_lines(0))
    ends = "schedule.total_rows 160 ends before these 320 rows: the last 160 have 0 x the peak"
    assert ends in shown["linear"]
    assert "ends before" not in shown["constant"]


def test_what_a_phase_takes_over_is_reported_once(tmp_path: Path) -> None:
    here = {"output": str(tmp_path / "run"), "then": [PHASE, PHASE]}
    claim(train_config(here), "a+b+c")
    changes = {"optimizer.lr": 0.5, "then": [{**PHASE, "data": {"path": "c"}}, PHASE, PHASE]}
    lines = check_claim(train_config({**here, **changes}), "a+b+c+c")
    assert lines == [
        "optimizer.lr: 0.0004 before, 0.5 now",
        "then.0.data.path: 'b' before, 'c' now",
        "then.2: a phase that was added",
    ]
