"""Workers keep memory that was freed, instead of having its pages cleared for every table."""

import os
import subprocess
import sys

import pytest

CODE = """
import resource, sys
import numpy as np
from data_prep.engine.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
np.ones(1 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    np.ones(1 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_of_tables(how: str) -> int:
    """Pages that the system made for a table of 8 MB that is made 50 times, in a new process."""
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"}  # as Dask starts workers
    done = subprocess.run(
        [sys.executable, "-c", CODE, how], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_tables_that_come_and_go_cost_no_new_pages() -> None:
    kept, cleared = pages_of_tables("keep"), pages_of_tables("as it is")
    assert kept < cleared / 4, (kept, cleared)
