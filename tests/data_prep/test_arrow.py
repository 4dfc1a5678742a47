"""Arrow takes memory from malloc, which keeps a limited part of what is freed, and no pandas."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.documents.files import StoredDocuments, documents_file, write_documents

POOL = "import data_prep.run, pyarrow; print(pyarrow.default_memory_pool().backend_name)"
MODULES = """
import sys
from pathlib import Path
from data_prep.documents.files import document_ids
print(document_ids(Path(sys.argv[1]), [1])[1], "pandas" in sys.modules)
"""


@pytest.mark.parametrize(("named", "used"), [("", "system"), ("mimalloc", "mimalloc")])
def test_the_allocator_is_malloc_unless_the_user_names_one(named: str, used: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "ARROW_DEFAULT_MEMORY_POOL"}
    if named:
        environment["ARROW_DEFAULT_MEMORY_POOL"] = named
    command = [sys.executable, "-c", POOL]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == used


def test_ids_are_read_without_pandas(tmp_path: Path) -> None:
    pytest.importorskip("pandas")  # which pyarrow.dataset imports where it is installed
    path = tmp_path / "a.parquet"
    with documents_file(path) as writer:
        write_documents(writer, StoredDocuments([b"x", b"y"], ["first", "second"]))
    command = [sys.executable, "-c", MODULES, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["second", "False"]
