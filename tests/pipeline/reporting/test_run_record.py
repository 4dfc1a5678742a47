"""What is read of a run's folder: launches, curves, damage."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from configs.load import UserError
from pipeline.reporting import run_record
from pipeline.reporting.launches import ROLLED_BACK, UNKNOWN_END
from pipeline.reporting.positions import AXES
from pipeline.reporting.render import render
from pipeline.reporting.run_record import read_run
from pipeline.tracking.event_log import LOG_NAME, EventLog
from tests.configs.pages.test_pages import checked
from tests.pipeline.reporting.recorded_runs import (
    PARAMETERS,
    append_lines,
    finished_run,
    start,
    step_values,
    steps,
)


def test_launches_rollbacks_and_changes(tmp_path: Path) -> None:
    run = read_run(finished_run(tmp_path / "run"))
    first, second, third = run.launches.all
    assert (first.resumed_from, first.last_step, first.state) == (0, 20, "stopped")
    assert (second.resumed_from, second.last_step, second.state) == (20, 30, ROLLED_BACK)
    assert [(c.key, c.before, c.now) for c in second.changes] == [("optimizer.lr", 0.001, 0.002)]
    assert (third.resumed_from, third.last_step, third.state) == (30, 40, "finished")
    assert third.num_repeated_steps == 3
    assert third.rollback is not None
    assert (third.rollback.start_row, third.rollback.end_row) == (500, 528)
    assert third.end_tags["best_step"] == "40"
    assert (first.host, first.grid) == ("node1", "1 x 2, ZeRO 1")
    assert run.name == "tiny"
    assert not run.problems


def test_each_step_counts_once(tmp_path: Path) -> None:
    run = read_run(finished_run(tmp_path / "run"))
    assert run.curves["loss"].num_values == 40
    assert run.curves["heldout_loss"].num_values == 4
    assert run.last_step == 40


def test_steps_that_could_not_be_removed_count_once(tmp_path: Path) -> None:
    """As a full disk leaves them: the old steps stay before the start that repeats them."""
    log = EventLog(tmp_path)
    start(log)
    steps(log, 1, 10)
    for resumed_from in (7, 4):
        log.append("start", {"params": PARAMETERS, "resumed_from": resumed_from})
        log.metrics(resumed_from + 1, step_values(resumed_from + 1) | {"loss": 99.0})
    run = read_run(tmp_path)
    points = run.curves["loss"].points()
    assert points.steps.tolist() == [1, 2, 3, 4, 5]
    assert points.mean[-1] == 99
    assert any(problem.startswith("7 recorded step(s)") for problem in run.problems)


def test_a_run_of_version_0_1_0(tmp_path: Path) -> None:
    append_lines(
        tmp_path,
        json.dumps({"kind": "created", "time_ms": 1000, "key": "k"}),
        json.dumps({"kind": "begin", "time_ms": 2000, "params": {"name": "old"}, "tags": {}}),
        json.dumps({"kind": "metrics", "time_ms": 3000, "step": 1, "values": {"loss": 2.0}}),
        json.dumps({"kind": "metrics", "time_ms": 3500, "step": 2, "values": {"loss": 9.0}}),
        json.dumps({"kind": "begin", "time_ms": 4000, "params": {}, "behind_step": 1}),
        json.dumps({"kind": "metrics", "time_ms": 5000, "step": 2, "values": {"loss": 1.0}}) + "\n",
    )
    run = read_run(tmp_path)
    assert [launch.resumed_from for launch in run.launches.all] == [0, 1]
    assert [launch.state for launch in run.launches.all] == [UNKNOWN_END] * 2
    assert run.curves["loss"].points().mean.tolist() == [2, 1]


def test_damaged_lines_are_counted(tmp_path: Path) -> None:
    finished_run(tmp_path)
    append_lines(
        tmp_path,
        "not JSON",
        '{"kind": "metrics", "time_ms": 1, "step": -3, "values": {}}',
        '{"kind": "metrics", "time_ms": 1, "step": 3, "values": {"loss": "high"}}',
        "[" * 100_000,
        "",
        '{"kind": "metrics", "time_ms": 1, "step": 41, "val',
    )
    run = read_run(tmp_path)
    assert [problem.split()[0] for problem in run.problems] == ["4", "1"]
    assert "incomplete last line" in run.problems[1]
    assert run.last_step == 40


STRANGE: tuple[Any, ...] = (
    None,
    -1,
    10**400,
    1e308,
    "x",
    "",
    [],
    {},
    [1],
    {"a": {"b": []}},
    True,
    "\ud800",
)


@pytest.mark.parametrize("seed", range(40))
def test_a_record_with_strange_values_can_be_shown(tmp_path: Path, seed: int) -> None:
    finished_run(tmp_path)
    entry = {"step": 10, "path": "x", "end_row": 160, "sha256": "ab", "heldout_loss": 5.0}
    files = {LOG_NAME: (tmp_path / LOG_NAME).read_text(), "start.json": '{"start": {"start": {}}}'}
    files["checkpoints.jsonl"] = json.dumps(entry | {"bytes": 10}) + "\n"
    generator = random.Random(seed)
    for name, text in files.items():
        lines = [change(json.loads(line), generator) for line in text.splitlines()]
        (tmp_path / name).write_text("\n".join(map(json.dumps, lines)) + "\n")
    run = read_run(tmp_path)
    for axis in AXES:
        checked(render([run, run], axis))
        checked(render([run], axis))


def change(tree: dict[str, Any], generator: random.Random) -> dict[str, Any]:
    """`tree` with strange values in some places."""
    changed: dict[str, Any] = {}
    for key, value in tree.items():
        if generator.random() < 0.05:
            changed[key] = generator.choice(STRANGE)
        else:
            changed[key] = change(value, generator) if isinstance(value, dict) else value
    return changed


def test_a_line_that_is_too_long_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.reporting.events.MAX_LINE_BYTES", 1000)
    event = {"kind": "metrics", "time_ms": 1, "step": 1, "values": {"loss": 1.0}}
    append_lines(tmp_path, json.dumps(event | {"more": "x" * 5000}), json.dumps(event), "")
    run = read_run(tmp_path)
    assert run.curves["loss"].num_values == 1
    assert run.problems[0].startswith("1 line(s)")


def test_huge_and_strange_values(tmp_path: Path) -> None:
    append_lines(
        tmp_path,
        '{"kind": "metrics", "time_ms": 1, "step": 1, "values": {"loss": 1e999, "a": NaN}}',
        '{"kind": "metrics", "time_ms": 1, "step": 2, "values": {"loss": 1' + "0" * 400 + "}}",
        '{"kind": "metrics", "time_ms": 1, "step": 3, "values": {"loss": 2, "skipped": true}}\n',
    )
    run = read_run(tmp_path)
    assert run.curves["loss"].num_not_finite == 2
    assert run.curves["loss"].points().mean.tolist() == [2]
    assert (run.skipped, run.num_skipped) == ([3], 1)


def test_metrics_beyond_the_limit_of_names_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_record, "MAX_METRICS", 2)
    log = EventLog(tmp_path)
    log.metrics(1, {"a": 1, "b": 2, "c": 3, "d": 4})
    run = read_run(tmp_path)
    assert list(run.curves) == ["a", "b"]
    assert run.problems == ["2 metrics beyond 2 names were left out"]


def test_damaged_files_beside_the_log_are_named(tmp_path: Path) -> None:
    finished_run(tmp_path)
    (tmp_path / "DONE").write_text("{")
    (tmp_path / "run.json").write_text("[]")
    (tmp_path / "checkpoints" / "step-00000010").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-00000010" / "manifest.json").write_text("{}")
    run = read_run(tmp_path)
    text = "\n".join(run.problems)
    for name in ("DONE", "run.json", "step-00000010"):
        assert name in text


def test_saves_that_were_deleted_are_known(tmp_path: Path) -> None:
    finished_run(tmp_path)
    entry = {"path": "x", "sha256": "ab" * 32, "heldout_loss": 5.0, "bytes": 10}
    lines = [
        {"step": 10, "end_row": 160, **entry},
        {"step": 20, "end_row": 320, **entry},
        {"step": 10, "pruned": True},
    ]
    (tmp_path / "checkpoints.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (tmp_path / "checkpoints" / "step-00000020").mkdir(parents=True)
    saves = read_run(tmp_path).saves
    assert [(save.step, save.is_there) for save in saves] == [(10, False), (20, True)]


def test_nodes_are_put_together(tmp_path: Path) -> None:
    finished_run(tmp_path)
    (tmp_path / "system").mkdir()
    for host, percent in (("n1", 20.0), ("n2", 60.0)):
        values = {f"system/{host}/cpu_percent": percent, f"system/{host}/gpu_0_power_w": 300.0}
        event = {"kind": "system", "time_ms": 1, "step": 3, "values": values}
        (tmp_path / "system" / f"{host}.jsonl").write_text(json.dumps(event) + "\nbroken\n")
    run = read_run(tmp_path)
    assert run.hosts == ["n1", "n2"]
    points = run.system["cpu_percent"].points()
    assert [points.mean[0], points.low[0], points.high[0]] == [40, 20, 60]
    assert "gpu_power_w" in run.system


def test_folders_that_hold_no_run_are_refused(tmp_path: Path) -> None:
    finished_run(tmp_path / "runs" / "a")
    with pytest.raises(UserError, match=r"no events.jsonl.*runs in it: .*/runs/a"):
        read_run(tmp_path / "runs")
    with pytest.raises(UserError, match="no such folder"):
        read_run(tmp_path / "nothing")
    with pytest.raises(UserError, match="give the folder of a run"):
        read_run(tmp_path / "runs" / "a" / LOG_NAME)
    (tmp_path / "pipe").mkdir()
    (tmp_path / "pipe" / LOG_NAME).mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        read_run(tmp_path / "pipe")


def test_a_copy_and_a_run_that_was_only_created(tmp_path: Path) -> None:
    EventLog(tmp_path / "new")
    run = read_run(tmp_path / "new")
    assert (run.last_step, run.launches.all) == (0, [])
    shutil.copytree(finished_run(tmp_path / "run"), tmp_path / "copy")
    assert read_run(tmp_path / "copy").last_step == 40
