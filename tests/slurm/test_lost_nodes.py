"""A node that is lost costs a job of data preparation the parts that it was at work on."""

from pathlib import Path

import pytest

from tests.data_prep.corpora import hashes_of
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import Job, submit
from tests.slurm.data_runs import Gate, data_config, records_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

FREE_PARTS = 2
"""Parts that each of the two workers runs before one of them is lost."""


def two_nodes_at_work(cluster: Cluster, made: Path, folder: Path) -> tuple[Job, Gate]:
    """A job on two nodes; both are in their third part, which the gate does not let end."""
    path = data_config(folder, made, part_mb=0.02)
    gate = Gate(folder, FREE_PARTS)
    job = submit(
        cluster, "data_prep.sh", folder / "log", "--nodes=2", arguments=(path,), **gate.variables
    )
    job.wait_until(lambda: len(records_of(folder / "work")) == 2 * FREE_PARTS, "four parts")
    return job, gate


def test_the_other_nodes_run_the_parts_of_a_lost_one(
    cluster: Cluster, made: Path, tmp_path: Path
) -> None:
    job, gate = two_nodes_at_work(cluster, made, tmp_path)
    kept = records_of(tmp_path / "work")
    cluster.fail("node2")
    try:
        job.wait_until(lambda: cluster.job(job.job_id)["NodeList"] == "node1", "the lost node")
        gate.open()
        fields = job.wait()
    finally:
        cluster.start("node2")
    assert fields["JobState"] == "COMPLETED", job.text
    assert fields["Restarts"] == "0"
    assert hashes_of(tmp_path / "rows") == hashes_of(made / "rows")
    assert kept.items() <= records_of(tmp_path / "work").items()


def test_without_its_first_node_the_job_is_requeued_by_the_next_one(
    cluster: Cluster, made: Path, tmp_path: Path
) -> None:
    job, gate = two_nodes_at_work(cluster, made, tmp_path)
    kept = records_of(tmp_path / "work")
    cluster.fail("node1")
    try:  # while it is lost: Slurm itself would requeue the job when it returns
        job.wait_until(lambda: cluster.job(job.job_id)["Restarts"] == "1", "the requeue")
    finally:
        cluster.start("node1")
    gate.open()
    fields = job.wait()
    assert fields["JobState"] == "COMPLETED", job.text
    assert fields["NodeList"] == "node[1-2]"
    assert hashes_of(tmp_path / "rows") == hashes_of(made / "rows")
    assert kept.items() <= records_of(tmp_path / "work").items()
