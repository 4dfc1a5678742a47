"""Compiled functions are found again by other processes, and work where nothing can be kept."""

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from data_prep.kernels import build, compiled, tokens
from data_prep.kernels.compiled import Kernel

CODE = """
import numba
from data_prep.kernels import compiled, hashing
import numpy as np
print(hashing.mixed(np.array([1], dtype=np.uint64))[0])
print(compiled.cache_folder())
print(sum(hashing.mixed.compile().stats.cache_hits.values()))
"""


def run(**environment: str) -> list[str]:
    """What a process prints: a hash, the folder, and how often machine code was loaded."""
    variables = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=variables, capture_output=True, text=True, check=True
    )
    assert "Error" not in done.stderr
    return done.stdout.split()


def test_processes_that_start_together_share_the_code(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        first = list(pool.map(lambda _: run(NUMBA_CACHE_DIR=str(tmp_path)), range(3)))
    later = run(NUMBA_CACHE_DIR=str(tmp_path))
    assert {found[0] for found in [*first, later]} == {later[0]}
    assert {Path(found[1]).parent for found in first} == {tmp_path}
    assert later[2] == "1"


def test_without_a_place_each_process_compiles(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    assert run(NUMBA_CACHE_DIR=str(file))[1:] == ["None", "0"]


def test_damaged_code_is_compiled_again(tmp_path: Path) -> None:
    value, *_ = run(NUMBA_CACHE_DIR=str(tmp_path))
    files = list(tmp_path.rglob("*.nb?"))
    assert files
    for path in files:
        path.write_bytes(b"")
    assert run(NUMBA_CACHE_DIR=str(tmp_path))[0] == value


def test_building_ahead_leaves_nothing_to_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "numba"
    folder.mkdir()
    monkeypatch.setattr(build, "cache_folder", lambda: folder)
    compiled_ahead: list[Any] = []
    monkeypatch.setattr(Kernel, "compile", lambda kernel: compiled_ahead.append(kernel))
    found = list(build.kernels())
    for kernel in found:
        monkeypatch.setattr(kernel, "is_kept", kernel is not tokens.tokens_of)
    build.build()
    assert compiled_ahead == found
    monkeypatch.setattr(tokens.tokens_of, "is_kept", True)
    build.build()  # again, as one was not kept
    assert compiled_ahead == 2 * found
    build.build()
    assert compiled_ahead == 2 * found
    modules = {path.stem for path in Path(build.__file__).parent.glob("*.py")}
    used = {module.__name__.rpartition(".")[2] for module in build._MODULES}
    assert modules - used == {"__init__", "build", "characters", "compiled"}


def test_a_folder_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    private = tmp_path / "private"
    assert compiled._is_private(private)
    private.chmod(0o777)
    assert not compiled._is_private(private)
    (tmp_path / "link").symlink_to(private)
    assert not compiled._is_private(tmp_path / "link")


def test_the_folder_depends_on_the_sources_and_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [compiled._version()]
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert compiled._version() == found[0]
    monkeypatch.setenv("NUMBA_BOUNDSCHECK", "1")
    found.append(compiled._version())
    for name in ("one", "two"):  # numba finds code by the path of its sources
        (tmp_path / name).mkdir()
        monkeypatch.setattr(compiled, "__file__", str(tmp_path / name / "compiled.py"))
        found.append(compiled._version())
    (tmp_path / "two/other.py").write_text("1")
    found.append(compiled._version())
    assert len(set(found)) == len(found)


def test_code_that_cannot_be_written_is_not_taken_for_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(compiled, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", fail)
    kernel = Kernel(lambda number: number + 1, (compiled.INTEGER,))
    assert kernel(1) == 2
    assert not kernel.is_kept
