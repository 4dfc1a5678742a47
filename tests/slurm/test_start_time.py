"""How long a job takes to its first optimizer step, imports and all checks included."""

from datetime import datetime

import pytest

from pipeline.run_log import LOG_NAME, read_events
from tests.slurm.conftest import submit

pytestmark = pytest.mark.cluster

LIMIT_S = 15.0


def test_two_nodes_of_two_ranks_start_in_time(cluster, written, tmp_path):
    config, path = written(20)
    options = ("--nodes=2", "--ntasks-per-node=2")
    job = submit(cluster, "pretrain.sh", tmp_path / "log", *options, arguments=(path,))
    fields = job.wait()
    assert fields["JobState"] == "COMPLETED", job.text
    events = [event for event, _ in read_events(config.output / LOG_NAME)]
    first = next(event for event in events if event["kind"] == "metrics")
    begun = datetime.fromisoformat(fields["StartTime"]).timestamp()  # whole seconds, rounded down
    took_s = first["time_ms"] / 1000 - begun
    print(f"first step {took_s:.1f} s after the start of the job")
    assert took_s < LIMIT_S
