"""Arrow takes memory from malloc, which keeps what is freed within a limit."""

import os
import subprocess
import sys

import pytest

CODE = "import data_prep.run, pyarrow; print(pyarrow.default_memory_pool().backend_name)"


@pytest.mark.parametrize(("named", "used"), [("", "system"), ("mimalloc", "mimalloc")])
def test_the_allocator_is_malloc_unless_the_user_names_one(named: str, used: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "ARROW_DEFAULT_MEMORY_POOL"}
    if named:
        environment["ARROW_DEFAULT_MEMORY_POOL"] = named
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == used
