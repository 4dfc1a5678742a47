"""A killed loader worker ends the run; the workers that are left do not keep it from ending."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from pipeline.pretraining.batches import run_batches
from pipeline.pretraining.resume import plan_segments
from pipeline.run.plan import plan_run
from tests.pipeline.training_run import make_config, make_rows


def test_a_killed_worker_leaves_no_worker_that_waits_for_ever(tmp_path: Path) -> None:
    make_rows(tmp_path / "rows")
    config = make_config(tmp_path / "rows", tmp_path / "run", workers=2, total_rows=200 * 16)
    plan = plan_run(config, 1)
    batches = run_batches(plan, plan_segments(plan, None), (), 0, 0)
    next(batches)
    killed, stuck = multiprocessing.active_children()
    assert stuck.pid is not None
    os.kill(stuck.pid, signal.SIGSTOP)  # as one that waits for a lock of the killed one
    killed.kill()
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        for _ in batches:
            pass
    assert not multiprocessing.active_children()
