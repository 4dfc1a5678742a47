"""Every key of a config may change in mid-run, may not, or only before its rows are taken."""

from pathlib import Path
from typing import Any

import pytest

from configs.load import UserError, validate
from pipeline.checkpoint.manifest import MANIFEST_NAME, checkpoint_folder, manifest_json
from pipeline.data.position import RowWindow
from pipeline.finetuning.config import FinetuneConfig
from pipeline.run.config import TrainConfig
from pipeline.run.mid_run import changed_data, forbidden_changes, newest_position
from pipeline.run.run_folder import check_claim, claim, is_done, mark_done
from tests.pipeline.checkpoint.saving import make_manifest

MODEL = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "max_row_tokens": 64}
PHASE = {"data": {"path": "b"}, "total_rows": 80, "batch": {"global_rows": 8, "micro_rows": 4}}
RUN: dict[str, Any] = {
    "name": "test",
    "output": "run",
    "total_rows": 160,
    "data": {"path": "a"},
    "model": MODEL,
    "objective": {"type": "mlm"},
    "batch": {
        "global_rows": 16,
        "micro_rows": 4,
        "warmup": [{"until_row": 16, "global_rows": 4}, {"until_row": 64, "global_rows": 8}],
    },
    "schedule": {"type": "constant"},
    "then": [PHASE],
}
TASK = {"type": "classification", "labels": ["a", "b"], "train": "t.jsonl"}
FINETUNING: dict[str, Any] = {
    "name": "test",
    "output": "run",
    "start": {"type": "run", "path": "base"},
    "tasks": {"one": TASK, "two": {**TASK, "dev": "d.jsonl"}},
    "mlm": {"data": {"path": "a"}},
    "steps": 10,
}
ROWS_OF_PHASE_0 = 160


def changed(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`tree` with other values at dotted paths."""
    result = {**tree}
    for path, value in changes.items():
        node: Any = result
        *parents, last = path.split(".")
        for name in parents:
            key: Any = int(name) if name.isdecimal() else name
            child = node[key] if isinstance(node, list) else node.get(key, {})
            node[key] = list(child) if isinstance(child, list) else dict(child)
            node = node[key]
        node[int(last) if last.isdecimal() else last] = value
    return result


def train_config(changes: dict[str, Any] | None = None) -> TrainConfig:
    return validate(changed(RUN, changes or {}), TrainConfig, "test")


def refused(changes: dict[str, Any], consumed_rows: int) -> list[str]:
    """The keys that are refused at a position."""
    lines = forbidden_changes(train_config(), train_config(changes), consumed_rows)
    return [line.partition(":")[0] for line in lines]


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("seed", 2),
        ("model.hidden_dropout", 0.3),
        ("model.norm_placement", {"type": "pre"}),
        ("objective.mask_rate", 0.3),
        ("batch.global_rows", 32),
        ("data.shuffle_unit", "shard"),
    ],
)
@pytest.mark.parametrize("consumed_rows", [0, 80, 200])
def test_the_identity_never_changes(change: str, value: Any, consumed_rows: int) -> None:
    keys = refused({change: value}, consumed_rows)
    assert len(keys) == 1
    assert keys[0].startswith(change)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other", "output": "moved", "hang_timeout_s": 5, "log_every_steps": 1},
        {"precision": "fp16", "loss_scale.initial": 8.0, "gradient_clipping": 1.0},
        {"optimizer": {"type": "lamb"}, "schedule": {"type": "cosine"}, "stability.spike_steps": 9},
        {"compute.deterministic": False, "parallel": {"tensor": 2, "zero_stage": 3}},
        {"checkpoint.keep_last": 9, "tracking.enabled": False, "evaluation.every_steps": 7},
        {"data.weights": {"a": 1.0}, "data.path": "c", "data.workers": 3, "data.verify": "sizes"},
        {"data.prefetch_steps": 1, "data.cache_gb": 1.0, "batch.micro_rows": 2},
        {"then.0.schedule": {"type": "cosine"}, "then.0.data.path": "c"},
        {"then.0.data.weights": {"a": 1.0}, "then.0.batch.micro_rows": 8},
        {"then.0.data.workers": 3, "then": [PHASE, PHASE]},
        {"then.0.optimizer.lr": 0.5, "then.0.gradient_clipping": 1.0},
    ],
    ids=lambda changes: "+".join(changes),
)
@pytest.mark.parametrize("consumed_rows", [0, 80, 200, 240])
def test_what_may_change_at_every_start(changes: dict[str, Any], consumed_rows: int) -> None:
    assert refused(changes, consumed_rows) == []


NOT_STARTED, IN_WARMUP, IN_PHASE_0, IN_PHASE_1, AT_THE_END = 0, 24, 96, 200, 240


@pytest.mark.parametrize(
    ("changes", "keys", "refused_at"),
    [
        ({"total_rows": 320}, ["total_rows"], {IN_PHASE_1, AT_THE_END}),
        ({"total_rows": 165}, [], set()),  # still ten steps of 16
        ({"total_rows": 96}, ["total_rows"], {IN_PHASE_1, AT_THE_END}),
        ({"total_rows": 80}, ["total_rows"], {IN_PHASE_0, IN_PHASE_1, AT_THE_END}),
        (
            {"batch.warmup": []},
            ["batch.warmup"],
            {IN_WARMUP, IN_PHASE_0, IN_PHASE_1, AT_THE_END},
        ),
        (
            {"batch.warmup.1.until_row": 80},
            ["batch.warmup.1.until_row"],
            {IN_PHASE_0, IN_PHASE_1, AT_THE_END},
        ),
        (
            {"batch.warmup.0.global_rows": 8},
            ["batch.warmup.0.global_rows"],
            {IN_WARMUP, IN_PHASE_0, IN_PHASE_1, AT_THE_END},
        ),
        ({"then.0.total_rows": 160}, [], set()),
        ({"then.0.total_rows": 32}, ["then.0.total_rows"], {IN_PHASE_1, AT_THE_END}),
        ({"then.0.total_rows": 40}, ["then.0.total_rows"], {AT_THE_END}),
        (
            {"then.0.batch.global_rows": 16},
            ["then.0.batch.global_rows"],
            {IN_PHASE_1, AT_THE_END},
        ),
        (
            {"then.0.batch.warmup": [{"until_row": 8, "global_rows": 4}]},
            ["then.0.batch.warmup"],
            {IN_PHASE_1, AT_THE_END},
        ),
        (
            {"then.0.data.shuffle_unit": "shard"},
            ["then.0.data.shuffle_unit"],
            {IN_PHASE_1, AT_THE_END},
        ),
        ({"then": []}, ["then.0"], {IN_PHASE_1, AT_THE_END}),
        (
            {"then.0.objective": {"mask_rate": 0.4}},
            ["then.0.objective.mask_rate"],
            {IN_PHASE_1, AT_THE_END},
        ),
        (
            {"then.0.model": {"hidden_dropout": 0.4}},
            ["then.0.model.hidden_dropout"],
            {IN_PHASE_1, AT_THE_END},
        ),
    ],
    ids=str,
)
def test_what_may_change_until_its_rows_were_taken(
    changes: dict[str, Any], keys: list[str], refused_at: set[int]
) -> None:
    for position in (NOT_STARTED, IN_WARMUP, IN_PHASE_0, IN_PHASE_1, AT_THE_END):
        expected = keys if position in refused_at else []
        assert refused(changes, position) == expected, position


@pytest.mark.parametrize(("steps", "is_refused"), [(3, True), (4, False), (9, False), (11, False)])
def test_fewer_steps_of_finetuning_than_were_taken(steps: int, is_refused: bool) -> None:
    before = validate(FINETUNING, FinetuneConfig, "test")
    now = validate({**FINETUNING, "steps": steps}, FinetuneConfig, "test")
    lines = forbidden_changes(before, now, 4 * before.rows_per_step)
    assert [line.partition(":")[0] for line in lines] == ["steps"] * is_refused


def test_at_the_exact_end_of_a_phase_it_may_grow_or_the_next_one_may_change() -> None:
    allowed: list[dict[str, Any]] = [
        {"total_rows": 320},
        {"then.0.batch.global_rows": 16},
        {"then": []},
    ]
    for changes in allowed:
        assert refused(changes, ROWS_OF_PHASE_0) == []
        assert refused(changes, ROWS_OF_PHASE_0 + 8) != []


def test_rows_that_will_be_skipped_count_as_taken(tmp_path: Path) -> None:
    config = train_config({"output": str(tmp_path / "run")})
    claim(config, "a+b")
    window = RowWindow(start_row=168, end_row=184)
    for step, skipped in ((5, ()), (6, (window,))):
        manifest = make_manifest(step, 1).model_copy(update={"skipped": skipped})
        folder = checkpoint_folder(tmp_path / "run" / "checkpoints", step)
        folder.mkdir(parents=True)
        (folder / MANIFEST_NAME).write_text(manifest_json(manifest))
        assert newest_position(folder.parent) == (184 if skipped else step * 4)
    longer = train_config({"output": str(tmp_path / "run"), "total_rows": 320})
    with pytest.raises(UserError, match="total_rows: 160 before, 320 now"):
        check_claim(longer, "a+b")


def test_only_rows_of_phases_that_started_are_compared() -> None:
    config = train_config()
    assert changed_data(config, "a+b", "a+c", ROWS_OF_PHASE_0) == []
    [line] = changed_data(config, "a+b", "a+c", ROWS_OF_PHASE_0 + 8)
    assert "then.0.data.path" in line
    assert changed_data(config, "a+b", "a+b+c", ROWS_OF_PHASE_0 + 8) == []
    assert len(changed_data(config, "a+b", "b+b", 0)) == 1


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"steps": 20, "micro_rows": 4, "evaluate_every_steps": 7}, []),
        ({"start.path": "moved", "start.tokenizer": "tokenizer.json"}, []),
        ({"tasks.one.train": "moved.jsonl", "tasks.one.dev": "new.jsonl"}, []),
        ({"tasks.two.dev": None, "mlm.heldout_rows_per_source": 8}, []),
        ({"mlm.data.path": "moved", "mlm.data.workers": 3, "mlm.data.verify": "sizes"}, []),
        ({"mlm.data.weights": {"a": 1.0}}, ["mlm.data.weights"]),
        ({"mlm.weight": 2.0}, ["mlm.weight"]),
        ({"mlm": None}, ["mlm", "mlm.data"]),
        ({"tasks.one.labels": ["b", "a"]}, ["tasks.one.labels.0", "tasks.one.labels.1"]),
        ({"tasks.one.examples_per_step": 8}, ["tasks.one.examples_per_step"]),
        ({"start.step": 3}, ["start.step"]),
        ({"model.hidden_dropout": 0.5}, ["model.hidden_dropout"]),
        (
            {"tasks": dict(reversed(FINETUNING["tasks"].items()))},
            ["order of tasks.0", "order of tasks.1"],
        ),
    ],
    ids=str,
)
def test_fine_tuning(changes: dict[str, Any], keys: list[str]) -> None:
    before = validate(FINETUNING, FinetuneConfig, "test")
    now = validate(changed(FINETUNING, changes), FinetuneConfig, "test")
    assert [line.partition(":")[0] for line in forbidden_changes(before, now, 100)] == keys


def test_a_run_is_finished_for_the_config_that_asks(tmp_path: Path) -> None:
    here = {"output": str(tmp_path / "run")}
    config = train_config(here)
    claim(config, "a+b")
    assert not is_done(config)
    mark_done(config, 30, 240)
    assert is_done(config)
    more: list[dict[str, Any]] = [
        {"total_rows": 320},
        {"then": [PHASE, PHASE]},
        {"then.0.total_rows": 88},
    ]
    for changes in more:
        assert not is_done(train_config({**here, **changes})), changes
    less: list[dict[str, Any]] = [
        {"then": []},
        {"then.0.total_rows": 40},
        {"then": [], "total_rows": 80},
    ]
    for changes in less:
        assert is_done(train_config({**here, **changes})), changes
    different: list[dict[str, Any]] = [
        {"seed": 2},
        {"then": [], "total_rows": 240},
        {"then.0.batch.global_rows": 4},
    ]
    for changes in different:
        with pytest.raises(UserError, match="holds a different run"):
            is_done(train_config({**here, **changes}))


def test_a_finished_fine_tuning_run_resumes_for_more_steps(tmp_path: Path) -> None:
    tree = {**FINETUNING, "output": str(tmp_path / "run")}
    config = validate(tree, FinetuneConfig, "test")
    claim(config, "files")
    mark_done(config, config.num_steps, config.end_row)
    assert is_done(config)
    assert not is_done(validate({**tree, "steps": 11}, FinetuneConfig, "test"))
    with pytest.raises(UserError, match="seed: 1 before, 2 now"):
        is_done(validate({**tree, "seed": 2}, FinetuneConfig, "test"))
    with pytest.raises(UserError, match="the data is different"):
        check_claim(config, "other files")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"config": 3}', "null"])
def test_damaged_files_of_a_run_end_in_messages(tmp_path: Path, content: str) -> None:
    config = train_config({"output": str(tmp_path / "run")})
    claim(config, "a+b")
    (tmp_path / "run" / "DONE").write_text(content)
    assert not is_done(config)
    (tmp_path / "run" / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"run\.json: damaged"):
        check_claim(config, "a+b")
