"""Processes keep memory that was freed, instead of having its pages cleared for every table."""

import os
import subprocess
import sys

import pytest

CODE = """
import resource, sys
import numpy as np
from configs.allocator import keep_freed_memory
how, size = sys.argv[1], int(sys.argv[2]) << 17
if how != "as it is":
    assert keep_freed_memory(everything=how == "keep everything")
np.ones(size)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    np.ones(size)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_of_tables(how: str, megabytes: int) -> int:
    """Pages that the system made for a table that is made 50 times, in a new process."""
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"}  # as Dask starts workers
    command = [sys.executable, "-c", CODE, how, str(megabytes)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
@pytest.mark.parametrize(("how", "megabytes"), [("keep", 8), ("keep everything", 64)])
def test_tables_that_come_and_go_cost_no_new_pages(how: str, megabytes: int) -> None:
    kept, cleared = pages_of_tables(how, megabytes), pages_of_tables("as it is", megabytes)
    assert kept < cleared / 4, (kept, cleared)
