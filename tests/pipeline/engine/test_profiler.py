"""`--profile-steps`: its values, and the trace that each rank writes."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.profiler import FOLDER_NAME, ProfiledSteps, profiled_steps
from tests.gloo import run_ranks
from tests.pipeline.training_run import make_config, make_rows, pretrain


def test_a_range_of_steps_is_read() -> None:
    assert profiled_steps("10:12") == ProfiledSteps(10, 12)
    assert profiled_steps("3:3") == ProfiledSteps(3, 3)


@pytest.mark.parametrize("text", ["", "3", "3:", ":3", "4:3", "0:3", "-1:3", "a:b", "1:2:3"])
def test_a_wrong_range_is_an_error(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a range of steps"):
        profiled_steps(text)


def steps_in(path: Path) -> list[str]:
    """The names of the optimizer steps in a trace, in their order."""
    events: list[dict[str, Any]] = json.loads(path.read_text())["traceEvents"]
    found = {
        event["name"]: event["ts"]
        for event in events
        if event.get("name", "").startswith("step ") and event.get("ph") == "X"
    }
    assert any("aten::" in event.get("name", "") for event in events)
    return sorted(found, key=lambda name: found[name])


def test_every_rank_writes_a_trace_of_the_steps(tmp_path: Path) -> None:
    make_rows(tmp_path / "rows", rows=64)
    config = make_config(tmp_path / "rows", tmp_path / "run", total_rows=6 * 16)
    run_ranks(pretrain, 2, config, ProfiledSteps(2, 3))
    traces = sorted((config.output / FOLDER_NAME).iterdir())
    assert [trace.name for trace in traces] == [
        "steps-2-3-rank-0.json",
        "steps-2-3-rank-1.json",
    ]
    for trace in traces:
        assert steps_in(trace) == ["step 2", "step 3"]


def test_a_run_that_ends_before_writes_what_it_has(tmp_path: Path) -> None:
    make_rows(tmp_path / "rows", rows=64)
    config = make_config(tmp_path / "rows", tmp_path / "run", total_rows=6 * 16)
    run_ranks(pretrain, 1, config, ProfiledSteps(6, 9))
    (trace,) = (config.output / FOLDER_NAME).iterdir()
    assert steps_in(trace) == ["step 6"]
