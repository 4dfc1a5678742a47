"""Workers keep memory that was freed, instead of having its pages cleared for every table."""

import resource
import sys

import numpy as np
import pytest

from data_prep.engine.allocator import keep_freed_memory
from pipeline.launch.local_ranks import run_ranks


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_tables_that_come_and_go_cost_no_new_pages() -> None:
    (few,) = run_ranks(pages_of_tables, 1, True)
    (many,) = run_ranks(pages_of_tables, 1, False)
    assert few < many / 4, (few, many)


def pages_of_tables(keeps: bool) -> int:
    """Pages that the system made for a table of 8 MB that is made 50 times."""
    if keeps:
        assert keep_freed_memory()
    np.ones(1 << 20).sum()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        np.ones(1 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
