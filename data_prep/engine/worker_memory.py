"""The memory limit of workers by stage: parts that need more than those of other stages get it.

A worker above its limit is restarted. One limit for all stages would have to be that of the
hungriest one, whose single part is run while all other workers are idle.
"""

from typing import Any

from data_prep.engine.resources import usable_resources

MAIN_PROCESS_SHARE = 0.1
"""Of the memory limit, what is left to the process that starts the workers."""


def allow(client: Any, num_bytes: int) -> None:
    """Lets each worker of a Dask client, and what restarts it, have `num_bytes` of memory.

    Never less than it was started with, and else no more than its control groups allow. Workers
    that join later have what they were started with.
    """
    for nanny in (True, False):
        client.run(_allow_here, num_bytes, nanny=nanny, on_error="ignore")


def _allow_here(num_bytes: int, dask_worker: Any) -> None:
    """Sets the limit in the process of a worker or its nanny; Dask gives it as `dask_worker`."""
    manager = dask_worker.memory_manager
    if manager.memory_limit is None:  # it was started without a limit
        return
    if not hasattr(manager, "started_with"):
        manager.started_with = manager.memory_limit
    most = usable_resources().memory_bytes
    if most is not None:
        num_bytes = min(num_bytes, int(most * (1 - MAIN_PROCESS_SHARE)))
    manager.memory_limit = max(manager.started_with, num_bytes)
